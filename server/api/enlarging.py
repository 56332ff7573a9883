"""The second pass and the enlargement of a request: pure."""

import math
from typing import Literal

from pipelines.contract.adapters import UpscalerCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.enlarging import Enlarger, Hires, Tiles, Upscale
from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported
from server.api.checks import share, whole
from server.api.options import HiresOption, TilesOption, UpscaleOption
from server.api.sizing import able, scaled
from server.catalog.catalog import Catalog

MAX_HIRES, MAX_UPSCALE = 4.0, 8.0
"""Factors along a side."""
MAX_RESULT = 33_554_432
"""Pixels of an enlarged picture: three bytes of each must travel from the worker in one frame."""
_LEAST_TILE, _MOST_TILE = 64, 2048

Size = tuple[int, int]


def hires(asked: HiresOption | None, size: Size, card: ModelCard, catalog: Catalog) -> Hires | None:
    """The second pass over an image of ``size``."""
    if asked is None:
        return None
    width, height = _target(asked, "hires", size, MAX_HIRES, card.family.multiple)
    able(width, height, card, "hires")
    enlarger, upscaler = _enlarger(asked, "hires", Enlarger.LATENT, catalog)
    return Hires(
        width,
        height,
        enlarger=enlarger,
        card=upscaler,
        strength=share(asked.strength, "hires.strength", 0.55),
        steps=None if asked.steps is None else whole(asked.steps, "hires.steps", 1, 1, card.limits.max_steps),
    )


def upscale(asked: UpscaleOption | None, size: Size, card: ModelCard, catalog: Catalog) -> Upscale | None:
    """What is done to a finished picture of ``size``."""
    if asked is None:
        return None
    width, height = _target(asked, "upscale", size, MAX_UPSCALE, 1)
    if width * height > MAX_RESULT:
        msg = f"'upscale' to {width}x{height} makes {width * height} pixels; the limit is {MAX_RESULT}."
        raise TooLarge(msg, param="upscale")
    enlarger, upscaler = _enlarger(asked, "upscale", Enlarger.LANCZOS, catalog)
    if enlarger is Enlarger.LATENT:
        msg = "'upscale.enlarger' can be 'lanczos' or 'model'; between latents only a second pass ('hires') can enlarge."
        raise Unsupported(msg, param="upscale.enlarger")
    tiles = None if asked.tiles is None else _tiles(asked.tiles, card)
    return Upscale(width, height, enlarger=enlarger, card=upscaler, tiles=tiles)


def _target(
    asked: HiresOption | UpscaleOption, where: Literal["hires", "upscale"], size: Size, most: float, multiple: int
) -> Size:
    both = asked.width is not None and asked.height is not None
    either = asked.width is not None or asked.height is not None
    if either is (asked.scale is not None) or either is not both:
        msg = f"{where!r} needs either 'scale', or 'width' and 'height'."
        raise InvalidRequest(msg, param=where)
    if asked.scale is not None:
        if not 1 < asked.scale <= most:
            msg = f"'{where}.scale' must be above 1 and at most {most:g}."
            raise InvalidRequest(msg, param=f"{where}.scale")
        found = scaled(*size, asked.scale, multiple)
    else:
        found = (asked.width or 0, asked.height or 0)
    if any(new < old for new, old in zip(found, size, strict=True)) or found == size:
        msg = f"{where!r} must make the image larger than {size[0]}x{size[1]}; to make it smaller, there is 'output.size'."
        raise InvalidRequest(msg, param=where)
    if asked.scale is None and any(new > old * most for new, old in zip(found, size, strict=True)):
        msg = f"{where!r} can make each side of {size[0]}x{size[1]} at most {most:g} times as long."
        raise TooLarge(msg, param=where)
    return found


def _enlarger(
    asked: HiresOption | UpscaleOption, where: str, usual: Enlarger, catalog: Catalog
) -> tuple[Enlarger, UpscalerCard | None]:
    if asked.upscaler is not None:
        if asked.enlarger not in (None, Enlarger.MODEL):
            msg = f"'{where}.upscaler' goes with enlarger 'model', not with {asked.enlarger.value!r}."
            raise InvalidRequest(msg, param=f"{where}.enlarger")
        return Enlarger.MODEL, catalog.upscaler(asked.upscaler, f"{where}.upscaler")
    if asked.enlarger is Enlarger.MODEL:
        names = ", ".join(card.name for card in catalog.upscalers.values()) or "models.yaml lists none"
        msg = f"'{where}.upscaler' must name the network that enlarges: {names}."
        raise InvalidRequest(msg, param=f"{where}.upscaler")
    return asked.enlarger or usual, None


def _tiles(asked: TilesOption, card: ModelCard) -> Tiles:
    usual = Tiles()
    largest = math.isqrt(card.limits.max_pixels) // card.family.multiple * card.family.multiple
    size = whole(asked.size, "upscale.tiles.size", min(usual.size, largest), _LEAST_TILE, _MOST_TILE)
    if size % card.family.multiple or size * size > card.limits.max_pixels:
        msg = (
            f"'upscale.tiles.size' is {size}; model {card.id!r} makes squares with sides of a multiple of "
            f"{card.family.multiple} and at most {card.limits.max_pixels} pixels."
        )
        raise InvalidRequest(msg, param="upscale.tiles.size")
    overlap = whole(asked.overlap, "upscale.tiles.overlap", min(usual.overlap, size // 4), 0, size // 2)
    return Tiles(size, overlap, share(asked.strength, "upscale.tiles.strength", usual.strength))
