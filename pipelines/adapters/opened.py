"""Adapters on the device, as rows find them."""

import hashlib
from collections.abc import Callable

import msgspec

from pipelines.adapters import control, lora, reference, upscaler
from pipelines.contract.adapters import AdapterCard, ControlCard, LoraCard, ReferenceCard, UpscalerCard
from pipelines.families.family import Family, Progress

Adapter = lora.Lora | control.ControlNetwork | reference.ImagePrompt | upscaler.Upscaler

Find = Callable[[AdapterCard], Adapter]
"""The adapter of a card; it is there, for rows begin only then."""


def key(card: AdapterCard, model: str, family: Family | None) -> tuple[str, ...]:
    """Equal for what can be opened once: the card, and what it is made fit for.

    A LoRA is bound to one model's network; control networks and references to a family and its precision only; an upscaler to
    nothing, so that ``family`` may be missing.
    """
    digest = hashlib.sha256(msgspec.json.encode(card, order="deterministic")).hexdigest()
    fit: tuple[str, ...] = ()
    if family is not None and not isinstance(card, UpscalerCard):
        fit = (model,) if isinstance(card, LoraCard) else (family.facts.family.value, family.facts.dtype)
    return (type(card).__name__, card.name, digest, *fit)


def open_adapter(card: LoraCard | ControlCard | ReferenceCard, family: Family, progress: Progress) -> Adapter:
    """The adapter of ``card``, fit for ``family``'s network, on its device.

    Raises `ModelLoadFailed` for what cannot be read, `Unsupported` for what was made for other models.
    """
    match card:
        case LoraCard():
            return lora.open_lora(card, family, progress)
        case ControlCard():
            return control.open_control(card, family, progress)
        case ReferenceCard():
            return reference.open_reference(card, family, progress)
