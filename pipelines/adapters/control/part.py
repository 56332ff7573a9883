"""What one image takes of a control network, and when it does."""

from typing import TYPE_CHECKING

import msgspec
import torch

if TYPE_CHECKING:
    from pipelines.adapters.control.network import ControlNetwork

_FINEST = -1.0
"""Power of ten that is left of the weight at the finest layer of a control that fades."""


class Hint(msgspec.Struct, frozen=True):
    """One control image as its network reads it."""

    tensors: tuple[torch.Tensor, ...]
    """Batch dimension 1."""
    weight: float
    start: float
    end: float
    mode: int = 0
    """UNION: the number of its kind of control image."""

    def at(self, position: int, total: int) -> "Hint":
        """As it is at evaluation ``position`` of ``total``: without weight outside of its share of the way.

        Counted in evaluations from where this image begins, as diffusers does.
        """
        due = position / total >= self.start and (position + 1) / total <= self.end
        return self if due else msgspec.structs.replace(self, weight=0.0)


class ControlPart(msgspec.Struct, frozen=True):
    """One use of a control network on one row."""

    network: "ControlNetwork"
    hints: tuple[Hint, ...]
    """One; all of the row's where the network reads them in one evaluation."""
    fades: bool = False
    positive_only: bool = False

    def at(self, position: int, total: int, *, negative: bool) -> "ControlPart | None":
        """What of it speaks at an evaluation, counted from 0; None if nothing does."""
        if negative and self.positive_only:
            return None
        hints = tuple(hint.at(position, total) for hint in self.hints)
        if not any(hint.weight for hint in hints):
            return None
        unchanged = all(now is hint for now, hint in zip(hints, self.hints, strict=True))
        return self if unchanged else msgspec.structs.replace(self, hints=hints)

    def scales(self, places: int, weight: float | None = None) -> list[float]:
        """What its residuals are multiplied by, from the finest of ``places`` to the coarsest.

        ``weight`` is the only hint's unless given.
        """
        own = self.hints[0].weight if weight is None else weight
        if not self.fades:
            return [own] * places
        return [own * step for step in torch.logspace(_FINEST, 0, places).tolist()]
