"""Everyday edits by their name: what is left unsaid beside `recipe` gets the values that edit wants. Pure."""

import msgspec

from pipelines.contract.errors import InvalidRequest
from pipelines.contract.inpainting import MAX_LENGTH, MaskedContent
from pipelines.contract.picture import Picture
from server.api.inputs import seam
from server.api.native.bodies import GenerateRequest, Recipe
from server.api.options import UpscaleOption
from server.api.orders import Supplied

ERASE_STRENGTH = 0.5
"""Enough to give the colours spread from around the grain of what stands around; more, and things appear that nobody asked for.

With the demo checkpoint what is erased differs from its plain ground by 2 of 255 at 0.5, by 5 at 0.75, by 10 at 1.
"""
VARIATION_STRENGTH = 0.6
"""The composition stays, the details are new."""
_TWICE = 2.0
_CONTEXT = 16
"""Erasing: context around the mask, in widths of its seam."""


def applied(body: GenerateRequest, supplied: Supplied) -> GenerateRequest:
    """``body`` with the values of its recipe wherever it says nothing itself.

    Raises:
        InvalidRequest: the recipe lacks a picture, or ``erase`` has words.
    """
    if body.recipe is None:
        return body
    picture = supplied.image
    if picture is None:
        msg = f"The recipe {body.recipe.value!r} needs a picture, and there is none."
        raise InvalidRequest(msg, param="image")
    match body.recipe:
        case Recipe.ERASE:
            wanted = _erasing(body, picture, supplied)
        case Recipe.VARIATION:
            wanted = {"strength": VARIATION_STRENGTH}
        case Recipe.UPSCALE:
            wanted = {"strength": 0.0, "upscale": UpscaleOption(scale=_TWICE) if body.hires is None else None}
    return msgspec.structs.replace(body, **{name: value for name, value in wanted.items() if getattr(body, name) is None})


def _erasing(body: GenerateRequest, picture: Picture, supplied: Supplied) -> dict[str, object]:
    """The colours around are spread into the mask's place, and a few steps without words mend them."""
    if supplied.mask is None:
        msg = "The recipe 'erase' takes away what a mask shows, and there is none."
        raise InvalidRequest(msg, param="mask")
    if body.prompt:
        msg = "The recipe 'erase' has no words; to paint something in the place of the mask, leave 'recipe' out."
        raise InvalidRequest(msg, param="prompt")
    edge = seam(picture)
    wanted: dict[str, object] = {
        "strength": ERASE_STRENGTH,
        "guidance": 1.0,
        "mask_grow": edge,
        "mask_blur": edge / 2,
        "mask_content": MaskedContent.FILL,
        "only_masked": True,
    }
    if body.only_masked is not False:
        wanted["mask_padding"] = min(_CONTEXT * edge, MAX_LENGTH)
    return wanted
