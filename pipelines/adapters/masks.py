"""Masks as 8-bit grey pictures: 255 is repainted, 0 is kept."""

import math

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from pipelines.contract.inpainting import Masking

HALF = 128
_TAIL = 2
"""So many standard deviations from its edge a blurred mask is as good as white."""
_REACH, _SPARE = 3, 4
"""Pillow's blur, three box blurs, reaches so many standard deviations far, and so many pixels."""
_FEATHER = 8
"""A soft mask's greys below one such part of white are where old and new pixels are mixed."""


def edited(mask: Image.Image, masking: Masking, margins: Image.Image | None = None, *, scale: float = 1.0) -> Image.Image:
    """``mask`` cut at one half unless it is soft, inverted, grown and blurred; what is white in ``margins`` is white in the end.

    Where margins meet the picture the blur lies wholly within the picture: on their side there is nothing old to mix in.
    ``scale`` multiplies all lengths. The blur is Pillow's, as that of diffusers' ``VaeImageProcessor.blur``.
    """
    if not masking.soft:
        mask = cut(mask)
    if masking.invert:
        mask = mask.point(lambda level: 255 - level)
    grow, blur = round(masking.grow * scale), masking.blur * scale
    if margins is not None:
        mask = lighter(mask, widened(margins, round(_TAIL * blur)))
    box = mask.getbbox()
    if box is None:
        return mask
    # Large pictures with small masks are usual: what stays black all around is left alone.
    reach = abs(grow) + math.ceil(_REACH * blur) + _SPARE
    box = (max(box[0] - reach, 0), max(box[1] - reach, 0), min(box[2] + reach, mask.width), min(box[3] + reach, mask.height))
    part = widened(mask.crop(box), grow)
    if blur > 0:
        part = part.filter(ImageFilter.GaussianBlur(blur))
    result = Image.new("L", mask.size, 0)
    result.paste(part, box[:2])
    return result if margins is None else lighter(result, margins)


def cut(mask: Image.Image) -> Image.Image:
    """Black below one half, white from there on, as diffusers binarises."""
    return mask.point(lambda level: 255 if level >= HALF else 0)


def widened(mask: Image.Image, pixels: int) -> Image.Image:
    """The white part wider by ``pixels`` in every direction, by a square; narrower if negative. Grey levels stay levels."""
    if pixels == 0:
        return mask
    spread = ndimage.maximum_filter if pixels > 0 else ndimage.minimum_filter
    return Image.fromarray(spread(np.asarray(mask), size=2 * abs(pixels) + 1, mode="nearest"))


def lighter(one: Image.Image, other: Image.Image) -> Image.Image:
    """The lighter of two masks at each pixel."""
    return Image.fromarray(np.maximum(np.asarray(one), np.asarray(other)))


def opacity(mask: Image.Image, *, soft: bool) -> Image.Image:
    """How much of the new pixels shows in the end: nothing wherever ``mask`` is black.

    The grey of a soft mask has had its say in the steps: new pixels stand alone in all but its darkest part. There they hardly
    differ from the old ones, and the fading hides what the VAE does to them.
    """
    return mask.point(lambda level: min(255, level * _FEATHER)) if soft else mask
