"""A LoRA on the device, and what one row takes of it."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipelines.adapters.lora.layers import Layer

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
