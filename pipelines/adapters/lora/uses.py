"""From a request's LoRAs to what they do to its rows and to its prompts."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pipelines.adapters.lora.application import uniformly
from pipelines.adapters.lora.parts import Lora, LoraPart
from pipelines.contract.adapters import LoraCard
from pipelines.contract.request import ImageRequest


class TextParts(msgspec.Struct, frozen=True):
    """LoRAs at work in the text encoders while prompts are read.

    Equal for the same opened LoRAs at the same weights. Kept as long as prompt embeddings are: it does not keep the LoRAs.
    """

    parts: tuple[tuple["weakref.ref[Lora]", float], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Whatever the text encoders read inside is read with them. Raises `ReferenceError` if one has gone."""
        added = []
        for held, weight in self.parts:
            lora = held()
            if lora is None:
                msg = "a prompt is read for a LoRA that has gone"
                raise ReferenceError(msg)
            added.append((lora.text, weight))
        with uniformly(added):
            yield


def parts(request: ImageRequest, find: Callable[[LoraCard], Any]) -> tuple[LoraPart, ...]:
    """What the LoRAs of ``request`` do to the denoising network, in its order; those that do nothing are left out."""
    found = ((find(use.card), use.weight) for use in request.loras)
    return tuple(LoraPart(lora, weight) for lora, weight in found if weight != 0.0 and lora.network)


def texts(request: ImageRequest, find: Callable[[LoraCard], Any]) -> TextParts | None:
    """What they do to the text encoders; None if nothing."""
    found = ((find(use.card), use.text_weight) for use in request.loras)
    used = tuple((weakref.ref(lora), weight) for lora, weight in found if weight != 0.0 and lora.text)
    return TextParts(used) if used else None
