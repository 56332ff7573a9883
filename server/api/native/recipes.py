"""Everyday edits as fields of a request: what erasing, outpainting and varying a picture mean here. Pure.

Lengths follow the picture: a grown and blurred edge of a 64th of its side is 8 pixels at 512 x 512, one latent of the model.
"""

import math

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.inpainting import MAX_LENGTH, Margins, MaskedContent, Masking
from pipelines.contract.picture import Picture
from pipelines.contract.request import Init
from server.catalog.sizes import suited

ERASE_STRENGTH = 0.5
"""Enough to give the colours spread from around the grain of what stands around; more, and things appear that nobody asked for.

With the demo checkpoint what is erased differs from its plain ground by 2 of 255 at 0.5, by 5 at 0.75, by 10 at 1.
"""
VARIATION_STRENGTH = 0.6
"""The composition stays, the details are new."""
_EDGE = 64
_LEAST_EDGE = 4
_CONTEXT = 16
"""Erasing: context around the mask, in edges."""


class Recipe(msgspec.Struct, frozen=True):
    """Fields of an `ImageRequest`; None leaves the caller's own, or the card's."""

    init: Init
    width: int
    height: int
    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None


def erase(picture: Picture, mask: Picture, card: ModelCard, *, strength: float = ERASE_STRENGTH) -> Recipe:
    """Take away what ``mask`` shows: the colours around are spread into its place, and a few steps without a prompt mend them.

    The picture keeps its size, and every pixel outside the mask's soft edge.
    """
    edge = _edge(picture)
    masking = Masking(
        grow=edge,
        blur=edge / 2,
        content=MaskedContent.FILL,
        only_masked=True,
        padding=min(_CONTEXT * edge, MAX_LENGTH),
    )
    init = Init(picture, strength, mask=mask, masking=masking, keep_unmasked=True)
    width, height = suited(picture.width, picture.height, card)
    return Recipe(init, width, height, prompt="", negative_prompt="", guidance_scale=1.0)


def outpaint(picture: Picture, margins: Margins, card: ModelCard, *, strength: float = 1.0) -> Recipe:
    """Grow the picture by ``margins``; the caller's prompt says what is in them.

    The whole of it is seen while the margins are painted. The picture keeps its scale and its pixels, but for a soft seam along
    the margins; past what the model is at home with, the margins alone are enlarged.
    """
    masking = Masking(blur=_edge(picture), only_masked=True, padding=MAX_LENGTH)
    init = Init(picture, strength, masking=masking, outpaint=margins, keep_unmasked=True)
    width, height = suited(*margins.around(picture.width, picture.height), card)
    return Recipe(init, width, height)


def variation(picture: Picture, card: ModelCard, *, strength: float = VARIATION_STRENGTH) -> Recipe:
    """Another picture like this one, for models without an adapter that sees pictures: begun from it, part of the way."""
    width, height = suited(picture.width, picture.height, card)
    return Recipe(Init(picture, strength), width, height)


def _edge(picture: Picture) -> int:
    return max(_LEAST_EDGE, round(math.sqrt(picture.width * picture.height) / _EDGE))
