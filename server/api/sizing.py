"""Sizes: as they are written, as models can make them, and as results have them."""

import re

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest, TooLarge
from pipelines.contract.request import ImageRequest, Init
from server.catalog.sizes import fit, suited

MAX_SIDE = 1 << 17
_SIZE = re.compile(r"(\d{1,6})\s*[xX]\s*(\d{1,6})")


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


def scaled(width: int, height: int, scale: float, multiple: int) -> tuple[int, int]:
    """Both sides times ``scale``, to the nearest multiple."""
    sides = [max(1, round(side * scale / multiple)) * multiple for side in (width, height)]
    return sides[0], sides[1]


def natural(start: Init | None, card: ModelCard) -> tuple[int, int]:
    """The size where none is asked for: the picture's, as far as the model can make it, or the card's.

    A part of a picture that keeps its own size is worked on at one that the model knows. A picture that is only made larger
    stays as it is until then.
    """
    if start is None:
        return card.defaults.width, card.defaults.height
    if start.strength == 0:
        return start.canvas
    return suited(*start.canvas, card) if start.masking.only_masked else fit(*start.canvas, card)


def drawn(request: ImageRequest) -> tuple[int, int]:
    """The size of what the model draws last, before it is enlarged."""
    return msgspec.structs.replace(request, upscale=None).finished_size
