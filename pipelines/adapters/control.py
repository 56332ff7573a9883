"""Control networks: what they say of a row is added inside the denoising network (https://arxiv.org/abs/2302.05543)."""

from collections.abc import Sequence

import msgspec
import torch

from pipelines.contract.adapters import ControlCard
from pipelines.contract.errors import Unsupported
from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Family, Progress
from pipelines.families.residuals import NONE, Residuals


class ControlNetwork:
    """One control network on the device."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class ControlPart(msgspec.Struct, frozen=True):
    """One use of a control network, on one row."""

    network: ControlNetwork
    start: float
    end: float

    def speaks(self, position: int, total: int, *, negative: bool) -> bool:  # noqa: ARG002
        """Within its share of the way, as diffusers counts it."""
        return position / total >= self.start and (position + 1) / total <= self.end


def open_control(card: ControlCard, family: Family, progress: Progress) -> ControlNetwork:  # noqa: ARG001
    """The control network of ``card``, fit for ``family``."""
    msg = f"The control network {card.name!r} cannot be used: they are not supported yet."
    raise Unsupported(msg, param="controls")


def residuals(
    family: Family,  # noqa: ARG001
    latents: torch.Tensor,  # noqa: ARG001
    timesteps: torch.Tensor,  # noqa: ARG001
    conditioning: Conditioning,  # noqa: ARG001
    rows: Sequence[tuple[ControlPart, ...]],  # noqa: ARG001
) -> Residuals:
    """What the control networks of all rows add, each row its own; rows without any get zeros and are not evaluated."""
    return NONE
