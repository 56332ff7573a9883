"""How a mask is read, and what it does."""

from enum import StrEnum

import msgspec

from pipelines.contract.errors import InvalidRequest, TooLarge

MAX_LENGTH = 4096
"""Pixels: the widest margin, growth and padding."""
MAX_BLUR = 256.0
MAX_CANVAS = 64_000_000
"""Pixels of a picture with its margins."""


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
    """What is done to a mask, in this order, and with it. Lengths are pixels of the finished picture."""

    invert: bool = False
    """Repaint what it keeps, and keep what it repaints; margins are repainted all the same."""
    grow: int = 0
    """Widen the repainted part by so much; negative shrinks it."""
    blur: float = 0.0
    """Standard deviation of a Gaussian: a soft seam between old and new. Unless `soft`, it is where the input's own pixels
    fade into the new ones, so that they are put back as with `Init.keep_unmasked`."""
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

    def around(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture with its margins."""
        return self.left + width + self.right, self.top + height + self.bottom


def check(masking: Masking, margins: Margins | None, size: tuple[int, int], *, masked: bool) -> None:
    """Refuse what makes no sense for a picture of ``size``, ``masked`` or not, before any work.

    Raises `InvalidRequest`, and `TooLarge` for a canvas past `MAX_CANVAS`.
    """
    if margins is not None:
        _check_margins(margins, size, masked=masked)
    elif not masked and masking != Masking():
        msg = "Options for a mask were sent, but there is no mask; send one, or margins to outpaint."
        raise InvalidRequest(msg, param="mask")
    if masking.invert and not masked:
        msg = "There is no mask to invert: margins are always repainted."
        raise InvalidRequest(msg, param="mask_invert")
    if abs(masking.grow) > MAX_LENGTH:
        msg = f"A mask grows or shrinks by at most {MAX_LENGTH} pixels, not {masking.grow}."
        raise InvalidRequest(msg, param="mask_grow")
    if not 0 <= masking.blur <= MAX_BLUR:
        msg = f"The blur of a mask is between 0 and {MAX_BLUR:g} pixels, not {masking.blur:g}."
        raise InvalidRequest(msg, param="mask_blur")
    if not 0 <= masking.padding <= MAX_LENGTH:
        msg = f"The padding around a mask is between 0 and {MAX_LENGTH} pixels, not {masking.padding}."
        raise InvalidRequest(msg, param="mask_padding")


def _check_margins(margins: Margins, size: tuple[int, int], *, masked: bool) -> None:
    sides = (margins.left, margins.top, margins.right, margins.bottom)
    if not all(0 <= side <= MAX_LENGTH for side in sides):
        msg = f"A picture is outpainted by 0 to {MAX_LENGTH} pixels on each side."
        raise InvalidRequest(msg, param="outpaint")
    if not any(sides) and not masked:
        msg = "There is nothing to outpaint: all four margins are 0."
        raise InvalidRequest(msg, param="outpaint")
    width, height = margins.around(*size)
    if width * height > MAX_CANVAS:
        msg = f"With its margins the picture has {width}x{height} pixels; {MAX_CANVAS} are the limit."
        raise TooLarge(msg, param="outpaint")
