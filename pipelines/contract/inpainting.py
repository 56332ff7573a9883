"""How a mask is read, and what it does."""

from enum import StrEnum

import msgspec


class MaskedContent(StrEnum):
    """What stands inside the mask before the first step; with full strength and txt2img-like steps little of it is left."""

    ORIGINAL = "original"
    FILL = "fill"
    """The colours around, spread inwards."""
    LATENT_NOISE = "latent_noise"
    """Nothing but noise."""
    LATENT_NOTHING = "latent_nothing"
    """Zero latents: a flat middle tone."""


class Masking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done to a mask, in this order, and with it. Lengths are pixels of the image that is made."""

    invert: bool = False
    """Repaint what it keeps, and keep what it repaints."""
    grow: int = 0
    """Widen the repainted part by so much; negative shrinks it."""
    blur: float = 0.0
    """Standard deviation of a Gaussian: a soft seam between old and new."""
    soft: bool = False
    """Grey is partial strength: each pixel is repainted for its own share of the steps (https://arxiv.org/abs/2306.00950).
    Without it the mask is black or white while the image is made, and grey only where old and new are put together."""
    content: MaskedContent = MaskedContent.ORIGINAL
    only_masked: bool = False
    """Work on the part around the mask at the size asked for, then put it back into the picture, which keeps its own size."""
    padding: int = 32
    """ONLY_MASKED: pixels of the input picture kept around the mask for context."""


class Margins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outpainting: how far the picture is to grow on each side, in pixels of the picture."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
