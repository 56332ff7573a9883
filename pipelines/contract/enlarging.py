"""Larger pictures: a second pass at a larger size, and what is done to a finished picture."""

from enum import StrEnum

import msgspec

from pipelines.contract.adapters import UpscalerCard


class Enlarger(StrEnum):
    """What makes an image larger."""

    LATENT = "latent"
    """Interpolation between latents (bilinear, A1111's "Latent"): only for a second pass, which has to mend it."""
    LANCZOS = "lanczos"
    """A resampling filter: nothing is invented."""
    MODEL = "model"
    """A network; its own factor first, then a filter to the exact size."""


class Hires(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A second pass over the image at a larger size, as part of the same request: img2img on the enlarged first pass.

    Its random numbers go on where the first pass has left them. A refiner finishes the second pass and leaves the first alone.
    """

    width: int
    """Pixels; a multiple like the request's own, and no less than it."""
    height: int
    enlarger: Enlarger = Enlarger.LATENT
    card: UpscalerCard | None = None
    """MODEL: which one."""
    strength: float = 0.55
    """0 < strength <= 1: the share of the steps that the second pass runs."""
    steps: int | None = None
    """The second pass's; None: the request's own."""


class Tiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Redraw an enlarged picture tile by tile (SD upscale): img2img on overlapping tiles, blended.

    Tiles are numbered row by row from the top left; tile n of an image has the image's seed + n, and the request's steps.
    """

    size: int = 512
    """Pixels along a side of a tile, a multiple of 8."""
    overlap: int = 64
    """Pixels, at most half of `size`."""
    strength: float = 0.3
    """0 < strength <= 1."""


class Upscale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done to the finished picture; smaller is possible too."""

    width: int
    """Pixels of the result."""
    height: int
    enlarger: Enlarger = Enlarger.LANCZOS
    """LANCZOS or MODEL."""
    card: UpscalerCard | None = None
    """MODEL: which one."""
    tiles: Tiles | None = None
    """After enlarging."""
