"""IP-Adapter: pictures as prompts, attended to beside the text (https://arxiv.org/abs/2308.06721)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from pipelines.contract.adapters import ReferenceCard
from pipelines.contract.errors import Unsupported
from pipelines.families.family import Family, Progress


class ImagePrompt:
    """One IP-Adapter on the device."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class ReferencePart(msgspec.Struct, frozen=True):
    """One use of an IP-Adapter, on one row."""

    adapter: ImagePrompt
    weight: float

    def speaks(self, position: int, total: int, *, negative: bool) -> bool:  # noqa: ARG002
        """All the time."""
        return True


def open_reference(card: ReferenceCard, family: Family, progress: Progress) -> ImagePrompt:  # noqa: ARG001
    """The IP-Adapter of ``card``, fit for ``family``."""
    msg = f"The IP-Adapter {card.name!r} cannot be used: they are not supported yet."
    raise Unsupported(msg, param="references")


@contextmanager
def applied(network: Any, rows: Sequence[tuple[ReferencePart, ...]]) -> Iterator[None]:  # noqa: ARG001
    """Inside the block a forward of ``network`` over ``len(rows)`` rows lets each row attend to its own pictures."""
    yield
