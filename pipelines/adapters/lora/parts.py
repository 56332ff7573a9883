"""A LoRA on the device, and what one image takes of it."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from pipelines.adapters.lora.application import uniformly
from pipelines.adapters.lora.layers import Layer
from pipelines.contract.adapters import LoraCard
from pipelines.contract.request import ImageRequest

Layers = tuple[tuple["weakref.ref[Any]", Layer], ...]
"""Modules with what is added to them. Weakly held: a model that goes must not be kept by its LoRAs."""


class Lora:
    """One LoRA on the device, bound to one model's modules. Equal only to itself: another opening is another LoRA."""

    __slots__ = ("__weakref__", "bytes", "compiled", "network", "text")

    def __init__(self, network: Mapping[Any, Layer], text: Mapping[Any, Layer], compiled: Sequence[Any] = ()) -> None:
        """Layers by module of the denoising network and of all text encoders; ``compiled`` are the network's compiled blocks."""
        self.network: Layers = tuple((weakref.ref(module), layer) for module, layer in network.items())
        self.text: Layers = tuple((weakref.ref(module), layer) for module, layer in text.items())
        self.compiled = tuple(weakref.ref(block) for block in compiled)
        self.bytes = sum(layer.bytes for _, layer in (*self.network, *self.text))


class LoraPart(msgspec.Struct, frozen=True):
    """One LoRA at one weight, on one row."""

    lora: Lora
    weight: float


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
