"""What is known of a model before it is loaded (its card), and after (its facts)."""

from enum import StrEnum
from typing import Literal

import msgspec

from pipelines.contract.family import Family
from pipelines.contract.request import Refiner, SkipLayers


class Dtype(StrEnum):
    """Precision of the weights on the device; AUTO is float16 on CUDA and float32 on a CPU."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Emphasis(StrEnum):
    """What a weight such as ``(word:1.3)`` does to the embedding; the names are A1111's."""

    NONE = "none"
    """Nothing: brackets and numbers are read as plain text."""
    ORIGINAL = "original"
    """Token embeddings are multiplied, then the mean over the chunk is put back to what it was."""
    NO_NORM = "no_norm"
    """Token embeddings are multiplied; for models (SDXL) where the correction of the mean does harm."""


class Attention(StrEnum):
    """Who computes attention; AUTO is torch's scaled_dot_product_attention."""

    AUTO = "auto"
    SDPA = "sdpa"
    XFORMERS = "xformers"


class Compile(StrEnum):
    """What torch.compile is applied to: nothing, or the network's repeated blocks."""

    OFF = "off"
    BLOCKS = "blocks"


class Quantize(StrEnum):
    """Weight-only quantisation of the denoising network."""

    INT8 = "int8"
    FP8 = "fp8"


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a card says over the checkpoint's own scheduler config; None leaves the config's value."""

    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"] | None = None
    zero_snr: bool | None = None
    """Rescale the betas to zero terminal signal-to-noise ratio (arXiv:2305.08891)."""
    timestep_spacing: Literal["linspace", "leading", "trailing"] | None = None
    shift: float | None = None
    """How far a flow-matching schedule is pushed towards noise (SD3: 3.0)."""


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request gets that does not say otherwise."""

    width: int = 512
    height: int = 512
    steps: int = 28
    guidance: float = 7.0
    sampler: str = "dpmpp_2m"
    scheduler: str | None = None
    strength: float = 0.8
    negative_prompt: str = ""
    clip_skip: int = 0
    guidance_rescale: float = 0.0
    skip_layers: SkipLayers | None = None
    refiner: Refiner | None = None
    """A second model that finishes every image of this one."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request may ask for at most."""

    max_pixels: int = 1_048_576
    """Width times height of one image."""
    max_steps: int = 150
    max_rows: int = 16
    """Network evaluations in one tick; the engine lowers it by itself when memory runs out."""
    max_images: int = 10
    min_side: int = 64


class EmbeddingCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``embeddings:`` in models.yaml; ``name``, its key there, is the word that prompts use."""

    name: str
    source: str
    """``file:PATH`` of a safetensors file."""
    family: Family


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``models:`` in models.yaml; ``id`` is its key there."""

    id: str
    source: str
    """``bundled:NAME``, ``dir:PATH`` (diffusers folder), ``file:PATH`` (one safetensors file), ``hf:REPO`` or ``fake:``."""
    family: Family
    revision: str | None = None
    """Commit, tag or branch of an ``hf:`` source."""
    dtype: Dtype = Dtype.AUTO
    vae: str | None = None
    """Source of another VAE than the checkpoint's own."""
    text_encoders: dict[str, str | None] = {}
    """Sources of other text encoders, by diffusers' names (``text_encoder``, ``text_encoder_2``, ``text_encoder_3``); null
    leaves that encoder out, which only SD3's T5 (``text_encoder_3``) allows."""
    schedule: Schedule = Schedule()
    emphasis: Emphasis = Emphasis.ORIGINAL
    embedded_guidance: bool = False
    """The network takes the guidance scale as an input (distilled LCM checkpoints): one evaluation per step at any scale."""
    attention: Attention = Attention.AUTO
    compile: Compile = Compile.OFF
    quantize: Quantize | None = None
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    qualities: dict[str, int] = {}
    """Steps for each ``quality`` word of a request, such as ``{low: 10, high: 40}``."""
    embeddings: tuple[EmbeddingCard, ...] = ()
    """The catalog's textual inversions for this family; filled in by the catalog, not written in the entry."""
    preload: bool = False
    """Load when the worker starts, not at the first request."""
    pin: bool = False
    """Never evict it to make room for another."""
    owned_by: str = "aquatint"
    description: str = ""


class ModelFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What loading a model found."""

    family: Family
    prediction_type: str
    dtype: str
    parameters: int
    bytes: int
    latent_channels: int
    inpainting: bool
    """Whether the UNet itself takes mask and masked image (nine channels)."""
    load_seconds: float
    embedded_guidance: bool = False
    """Whether the network takes the guidance scale as an input."""
    max_clip_skip: int = 0
    patch: int = 1
    """Latents along one side of what the network takes as one token (transformers)."""
    refines_only: bool = False
    """Whether it can only finish another model's latents (the SDXL refiner)."""
