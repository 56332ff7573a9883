"""LoRA: low-rank changes of a network's weights, added for the rows that ask for them (https://arxiv.org/abs/2106.09685)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from pipelines.contract.adapters import LoraCard
from pipelines.contract.errors import Unsupported
from pipelines.families.family import Family, Progress


class Lora:
    """One LoRA on the device."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class LoraPart(msgspec.Struct, frozen=True):
    """One LoRA at one weight, on one row."""

    lora: Lora
    weight: float


def open_lora(card: LoraCard, family: Family, progress: Progress) -> Lora:  # noqa: ARG001
    """The LoRA of ``card`` for ``family``'s network and text encoders."""
    msg = f"The LoRA {card.name!r} cannot be used: LoRAs are not supported yet."
    raise Unsupported(msg, param="loras")


@contextmanager
def applied(network: Any, rows: Sequence[tuple[LoraPart, ...]]) -> Iterator[None]:  # noqa: ARG001
    """Inside the block a forward of ``network`` over ``len(rows)`` rows gives each row its own LoRAs."""
    yield
