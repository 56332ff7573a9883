"""What models.yaml says of everything that is loaded beside a model and shapes its pictures.

A request carries the cards of the adapters it uses: what it began with stays as it was, whatever becomes of the file.
"""

from enum import StrEnum

import msgspec

from pipelines.contract.family import Family


class LoraCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``loras:``: low-rank changes of a model's weights (https://arxiv.org/abs/2106.09685) and its relatives."""

    name: str
    """Its key in models.yaml, and what ``<lora:NAME:1>`` in a prompt calls it."""
    source: str
    """``file:PATH`` of a safetensors file, ``hf:REPO`` or ``bundled:NAME``."""
    family: Family
    revision: str | None = None
    """Commit, tag or branch of an ``hf:`` source."""
    file: str | None = None
    """Which file of an ``hf:`` source; None where it has only one."""
    weight: float = 1.0
    """What a use that does not say otherwise gets."""
    trigger: str = ""
    """Words that its training taught; told to users, not added to prompts."""
    description: str = ""


class ControlKind(StrEnum):
    """How a control network speaks to the model."""

    CONTROLNET = "controlnet"
    """A copy of the model's encoder, evaluated at each step (https://arxiv.org/abs/2302.05543)."""
    UNION = "union"
    """A ControlNet for several kinds of control images; a use names its ``mode``."""
    T2I_ADAPTER = "t2i_adapter"
    """A small network read once per image (https://arxiv.org/abs/2302.08453)."""


class ControlCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``controlnets:``."""

    name: str
    source: str
    """``dir:PATH`` (diffusers folder), ``file:PATH`` (one safetensors file), ``hf:REPO`` or ``bundled:NAME``."""
    family: Family
    kind: ControlKind = ControlKind.CONTROLNET
    revision: str | None = None
    preprocessor: str | None = None
    """What makes its control image of an ordinary picture, unless a use says otherwise; None: pictures come ready made."""
    modes: dict[str, int] = {}
    """UNION: the number that stands for each kind of control image, such as ``{openpose: 0, depth: 1}``."""
    description: str = ""


class ReferenceCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``ip_adapters:``: pictures as prompts (https://arxiv.org/abs/2308.06721)."""

    name: str
    source: str
    """``file:PATH`` of a safetensors file, ``hf:REPO`` or ``bundled:NAME``."""
    family: Family
    image_encoder: str | None = None
    """Source of the CLIP image encoder, ``dir:`` or ``hf:``."""
    revision: str | None = None
    file: str | None = None
    """Which file of an ``hf:`` source."""
    description: str = ""


class UpscalerCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``upscalers:``: a network that enlarges finished pictures."""

    name: str
    source: str
    """``file:PATH`` of a safetensors file of an architecture that spandrel knows, ``hf:REPO`` or ``bundled:NAME``."""
    revision: str | None = None
    file: str | None = None
    tile: int = 512
    """Pixels along a side of what goes through the network at once."""
    description: str = ""


class PreprocessorCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``preprocessors:``: weights for one of `pipelines.contract.preprocessing`'s names that needs some."""

    name: str
    source: str
    """``dir:PATH``, ``file:PATH`` or ``hf:REPO``."""
    revision: str | None = None
    file: str | None = None


AdapterCard = LoraCard | ControlCard | ReferenceCard | UpscalerCard
"""What is brought to the device for the rows that use it."""
