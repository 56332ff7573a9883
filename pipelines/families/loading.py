"""From a card to a loaded family."""

import torch

from pipelines.contract import catalog
from pipelines.contract.catalog import Dtype, ModelCard
from pipelines.contract.errors import AquatintError, ModelLoadFailed
from pipelines.families import guidance, sd, sources
from pipelines.families.family import Family, Progress
from pipelines.families.overlaid import Overlaid
from pipelines.families.parts import FolderParts, Parts


def load(card: ModelCard, device: torch.device, progress: Progress) -> Family:
    """Load ``card`` onto ``device``.

    Raises `ModelLoadFailed`, with the cause kept, for anything that stands in the way.
    """
    try:
        family = _family(card, parts_of(card, device, progress))
    except AquatintError:
        raise
    except Exception as error:
        msg = f"Model {card.id!r} cannot be loaded from {card.source!r}: {error}"
        raise ModelLoadFailed(msg) from error
    guidance.agree(card.id, card=card.embedded_guidance, weights=family.facts.embedded_guidance)
    return family


def _family(card: ModelCard, parts: Parts) -> Family:
    if card.family is catalog.Family.SD:
        return sd.load(parts)
    msg = f"Model {card.id!r}: this worker cannot run family {card.family.value!r}."
    raise ModelLoadFailed(msg)


def parts_of(card: ModelCard, device: torch.device, progress: Progress) -> Parts:
    """The parts of ``card``'s checkpoint, still to be loaded."""
    parts = FolderParts(sources.folder(card.source), device, precision(card.dtype, device), progress)
    return Overlaid(parts, card.schedule)


def precision(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The weights' type: as asked, or what suits the device."""
    if dtype is Dtype.AUTO:
        return torch.float16 if device.type == "cuda" else torch.float32
    return {Dtype.FLOAT32: torch.float32, Dtype.FLOAT16: torch.float16, Dtype.BFLOAT16: torch.bfloat16}[dtype]
