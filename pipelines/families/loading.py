"""From a card to a loaded family."""

from collections.abc import Sequence

import msgspec
import torch

from pipelines.contract.catalog import Compile, Dtype, ModelCard
from pipelines.contract.errors import AquatintError, ModelLoadFailed
from pipelines.contract.family import Family as Architecture
from pipelines.families import guidance, optimise, sd, sd3, sdxl
from pipelines.families.compiling import compile_blocks, warm_up
from pipelines.families.facts import stored
from pipelines.families.family import Family
from pipelines.families.opening import open_parts
from pipelines.families.overlaid import Overlaid
from pipelines.families.parts import Parts
from pipelines.families.progress import Progress
from pipelines.families.shared import Shared

_READING = 0.5
"""Where reading ends and compiling begins, as a share of the progress shown: which takes longer depends on the device."""


def load(
    card: ModelCard,
    device: torch.device,
    progress: Progress,
    shared: Shared | None = None,
    buckets: Sequence[int] = (),
) -> Family:
    """Load ``card`` onto ``device``, without what ``shared`` has there already, and make of it what the card asks.

    ``buckets`` are the batch sizes to compile for.

    Raises `ModelLoadFailed`, with the cause kept, for anything that stands in the way.
    """
    compiled = card.compile is not Compile.OFF
    try:
        family = _family(card, parts_of(card, device, _share(progress, 0.0, _READING) if compiled else progress, shared))
        guidance.agree(card.id, card=card.embedded_guidance, weights=family.facts.embedded_guidance)
        _optimise(family, card)
        if compiled:
            warm_up(family, card, buckets, _share(progress, _READING, 1.0))
    except AquatintError:
        raise
    except Exception as error:
        msg = f"Model {card.id!r} cannot be loaded from {card.source!r}: {error}"
        raise ModelLoadFailed(msg) from error
    progress("ready", 1.0)
    return family


def _optimise(family: Family, card: ModelCard) -> None:
    optimise.attend(family.network, card.attention, family.device)
    if card.quantize is not None:
        before = stored(family.network)
        optimise.quantise(family.network, card.quantize)
        saved = before - stored(family.network)
        family.facts = msgspec.structs.replace(family.facts, bytes=family.facts.bytes - saved)
    if card.compile is Compile.BLOCKS:
        compile_blocks(family.network)


def _share(progress: Progress, first: float, last: float) -> Progress:
    """Progress of one part of the work, which is from ``first`` to ``last`` of the whole."""
    return lambda part, done: progress(part, first + (last - first) * done)


def _family(card: ModelCard, parts: Parts) -> Family:
    if card.family is Architecture.SD:
        return sd.load(parts)
    if card.family is Architecture.SDXL:
        return sdxl.load(parts)
    if card.family is Architecture.SD3:
        return sd3.load(parts, t5=card.text_encoders.get("text_encoder_3", "") is not None)
    msg = f"Model {card.id!r}: this worker cannot run family {card.family.value!r}."
    raise ModelLoadFailed(msg)


def parts_of(card: ModelCard, device: torch.device, progress: Progress, shared: Shared | None = None) -> Parts:
    """The parts of ``card``'s checkpoint, still to be loaded, but for what ``shared`` has."""
    parts = open_parts(card, device, precision(card.dtype, device), progress)
    return Overlaid((shared or Shared()).over(parts), card.schedule)


def precision(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The weights' type: as asked, or what suits the device.

    A CPU computes in float16 and bfloat16 too, and rightly; one without instructions for them takes many times as long.
    """
    if dtype is Dtype.AUTO:
        return torch.float16 if device.type == "cuda" else torch.float32
    return {Dtype.FLOAT32: torch.float32, Dtype.FLOAT16: torch.float16, Dtype.BFLOAT16: torch.bfloat16}[dtype]
