"""What is known of a model before it is loaded (its card), and after (its facts)."""

from enum import StrEnum

import msgspec


class Family(StrEnum):
    """Architectures the engine can run."""

    SD = "sd"
    """Stable Diffusion 1.x and 2.x: one UNet, one CLIP text encoder."""
    FAKE = "fake"
    """No network at all: colour gradients, for tests and for trying the server."""


class Dtype(StrEnum):
    """Precision of the weights on the device; AUTO is float16 on CUDA and float32 on a CPU."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


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


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request may ask for at most."""

    max_pixels: int = 1_048_576
    """Width times height of one image."""
    max_steps: int = 150
    max_rows: int = 16
    """Network evaluations in one tick; the engine lowers it by itself when memory runs out."""
    max_images: int = 10
    min_side: int = 64


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``models:`` in models.yaml; ``id`` is its key there."""

    id: str
    source: str
    """``bundled:NAME``, ``dir:PATH`` (diffusers folder) or ``fake:``."""
    family: Family
    dtype: Dtype = Dtype.AUTO
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    qualities: dict[str, int] = {}
    """Steps for each ``quality`` word of a request, such as ``{low: 10, high: 40}``."""
    preload: bool = False
    """Load when the worker starts, not at the first request."""
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
