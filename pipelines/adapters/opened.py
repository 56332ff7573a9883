"""Adapters on the device, as rows find them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pipelines.adapters import lora
from pipelines.adapters.control.network import ControlNetwork
from pipelines.adapters.control.opening import open_control
from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.adapters.references.opening import open_reference
from pipelines.adapters.upscaler import Upscaler
from pipelines.contract.adapters import AdapterCard, ControlCard, LoraCard, ReferenceCard, UpscalerCard
from pipelines.families.family import Family
from pipelines.families.progress import Progress

Adapter = lora.Lora | ControlNetwork | ImagePrompt | Upscaler

Find = Callable[[AdapterCard], Adapter]
"""The adapter of a card; it is there, for rows begin only then."""


def key(card: AdapterCard, model: str, family: Family | None) -> tuple[str, ...]:
    """Equal for what can be opened once: the card, what it is made fit for and, last, the state of its file.

    A LoRA is bound to one model's network (``model`` is another one whenever it is loaded anew); control networks and references
    to a family and its precision only; an upscaler to nothing, so that ``family`` may be missing.
    """
    digest = hashlib.sha256(msgspec.json.encode(card, order="deterministic")).hexdigest()
    fit: tuple[str, ...] = ()
    if family is not None and not isinstance(card, UpscalerCard):
        fit = (model,) if isinstance(card, LoraCard) else (family.facts.family.value, family.facts.dtype)
    return (type(card).__name__, card.name, digest, *fit, _stamp(card))


def _stamp(card: AdapterCard) -> str:
    """Another one whenever the file has been written over, as far as its size and its time tell."""
    if not card.source.startswith("file:"):
        return ""
    try:
        found = Path(card.source.removeprefix("file:")).expanduser().stat()
    except OSError:
        return "absent"
    return f"{found.st_size} {found.st_mtime_ns}"


def open_adapter(
    card: LoraCard | ControlCard | ReferenceCard, family: Family, progress: Progress, others: Sequence[Adapter] = ()
) -> Adapter:
    """The adapter of ``card``, fit for ``family``'s network, on its device; it shares with ``others`` what it can.

    Raises `ModelLoadFailed` for what cannot be read, `Unsupported` for what was made for other models.
    """
    match card:
        case LoraCard():
            return lora.open_lora(card, family, progress)
        case ControlCard():
            return open_control(card, family, progress)
        case ReferenceCard():
            encoders = [other.encoder for other in others if isinstance(other, ImagePrompt)]
            return open_reference(card, family, progress, encoders)
