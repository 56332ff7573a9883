"""Sizes: as they are written, as models can make them, and as results have them."""

import math
import re

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest, TooLarge
from pipelines.contract.request import ImageRequest, Init

MAX_SIDE = 1 << 17
_SIZE = re.compile(r"(\d{1,6})\s*[xX]\s*(\d{1,6})")
_RATIO = re.compile(r"(\d{1,4})\s*[:/]\s*(\d{1,4})")


def written(text: str, param: str, example: str) -> tuple[int, int]:
    """Width and height of ``WIDTHxHEIGHT``."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or not int(found[1]) or not int(found[2]):
        msg = f"{param!r} must be WIDTHxHEIGHT such as '{example}'."
        raise InvalidRequest(msg, param=param)
    return int(found[1]), int(found[2])


def asked(text: str | None, card: ModelCard, param: str = "size") -> tuple[int, int] | None:
    """The size in ``text`` if the model can make it; None if it is left to us."""
    if text is None or text.strip().lower() in ("auto", ""):
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        msg = f"{param!r} must be 'auto' or WIDTHxHEIGHT such as '{card.defaults.width}x{card.defaults.height}'."
        raise InvalidRequest(msg, param=param)
    return able(int(found[1]), int(found[2]), card, param)


def able(width: int, height: int, card: ModelCard, param: str) -> tuple[int, int]:
    """``width`` and ``height``, if the model can make them."""
    limits, multiple = card.limits, card.family.multiple
    if width % multiple or height % multiple or min(width, height) < limits.min_side:
        msg = f"{param!r} {width}x{height}: both sides must be multiples of {multiple}, {limits.min_side} or more."
        raise InvalidRequest(msg, param=param)
    if width * height > limits.max_pixels:
        # A side beyond all reason is not divided by: the example would not fit it anyway.
        near = "x".join(map(str, fit(min(width, MAX_SIDE), min(height, MAX_SIDE), card)))
        msg = (
            f"{param!r} {width}x{height} has {width * height} pixels; model {card.id!r} makes at most {limits.max_pixels}"
            f" (for example {near})."
        )
        raise TooLarge(msg, param=param)
    return width, height


def fit(width: int, height: int, card: ModelCard) -> tuple[int, int]:
    """The size nearest to ``width`` x ``height``, in shape first, that the model can make."""
    limits = card.limits
    multiple = card.family.multiple
    low = math.ceil(limits.min_side / multiple) * multiple
    scale = min(1.0, math.sqrt(limits.max_pixels / (width * height)))
    scale = max(scale, low / min(width, height))
    sides = [max(low, int(side * scale / multiple + 0.5) * multiple) for side in (width, height)]
    longer = 0 if sides[0] >= sides[1] else 1
    if sides[0] * sides[1] > limits.max_pixels:
        sides[longer] = max(low, limits.max_pixels // sides[1 - longer] // multiple * multiple)
    return sides[0], sides[1]


def shaped(text: str, card: ModelCard, param: str = "aspect_ratio") -> tuple[int, int]:
    """The size of shape ``text``, such as ``16:9``, with about as many pixels as the model's default size."""
    found = _RATIO.fullmatch(text.strip())
    if found is None or not int(found[1]) or not int(found[2]):
        msg = f"{param!r} must be WIDTH:HEIGHT such as '16:9'."
        raise InvalidRequest(msg, param=param)
    ratio = int(found[1]) / int(found[2])
    if not 1 / 8 <= ratio <= 8:  # noqa: PLR2004 - beyond it there is no picture, only a stripe
        msg = f"{param!r} must be from 1:8 to 8:1."
        raise InvalidRequest(msg, param=param)
    pixels = card.defaults.width * card.defaults.height
    return fit(max(1, round(math.sqrt(pixels * ratio))), max(1, round(math.sqrt(pixels / ratio))), card)


def scaled(width: int, height: int, scale: float, multiple: int) -> tuple[int, int]:
    """Both sides times ``scale``, to the nearest multiple."""
    sides = [max(1, round(side * scale / multiple)) * multiple for side in (width, height)]
    return sides[0], sides[1]


def grown(init: Init) -> tuple[int, int]:
    """The size of the picture to start from, with the margins of its outpainting."""
    width, height, margins = init.picture.width, init.picture.height, init.outpaint
    if margins is None:
        return width, height
    return width + margins.left + margins.right, height + margins.top + margins.bottom


def natural(start: Init | None, card: ModelCard) -> tuple[int, int]:
    """The size where none is asked for: the picture's, as far as the model can make it, or the card's.

    A part of a picture that keeps its own size is best worked on at the size that the model knows.
    """
    if start is None or start.masking.only_masked:
        return card.defaults.width, card.defaults.height
    return fit(*grown(start), card)


def drawn(request: ImageRequest) -> tuple[int, int]:
    """The size of what the model draws last, before it is enlarged."""
    if request.init is not None and request.init.masking.only_masked:
        return grown(request.init)
    return (request.width, request.height) if request.hires is None else (request.hires.width, request.hires.height)


def made(request: ImageRequest) -> tuple[int, int]:
    """The size of the finished picture."""
    return drawn(request) if request.upscale is None else (request.upscale.width, request.upscale.height)
