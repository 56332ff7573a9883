"""From a card to a loaded family."""

import torch

from pipelines.contract import catalog
from pipelines.contract.catalog import Dtype, ModelCard
from pipelines.contract.errors import AquatintError, ModelLoadFailed
from pipelines.families import sd, sd3, sdxl
from pipelines.families.family import Family, Progress
from pipelines.families.opening import open_parts
from pipelines.families.parts import Parts
from pipelines.families.shared import Shared


def load(card: ModelCard, device: torch.device, progress: Progress, shared: Shared | None = None) -> Family:
    """Load ``card`` onto ``device``, without what ``shared`` has there already.

    Raises `ModelLoadFailed`, with the cause kept, for anything that stands in the way.
    """
    try:
        if card.family is catalog.Family.SD:
            return sd.load(parts_of(card, device, progress, shared))
        if card.family is catalog.Family.SD3:
            t5 = card.text_encoders.get("text_encoder_3", "") is not None
            return sd3.load(parts_of(card, device, progress, shared), t5=t5)
        if card.family is catalog.Family.SDXL:
            return sdxl.load(parts_of(card, device, progress, shared))
    except AquatintError:
        raise
    except Exception as error:
        msg = f"Model {card.id!r} cannot be loaded from {card.source!r}: {error}"
        raise ModelLoadFailed(msg) from error
    msg = f"Model {card.id!r}: a worker on {device} cannot run family {card.family.value!r}."
    raise ModelLoadFailed(msg)


def parts_of(card: ModelCard, device: torch.device, progress: Progress, shared: Shared | None = None) -> Parts:
    """The parts of ``card``'s checkpoint, still to be loaded but for what is ``shared``."""
    return (shared or Shared()).over(open_parts(card, device, precision(card.dtype, device), progress))


def precision(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The weights' type: as asked, or what suits the device."""
    if dtype is Dtype.AUTO:
        return torch.float16 if device.type == "cuda" else torch.float32
    return {Dtype.FLOAT32: torch.float32, Dtype.FLOAT16: torch.float16, Dtype.BFLOAT16: torch.bfloat16}[dtype]
