"""The sizes a model was trained on: the nearest one of a wanted shape, the nearest one it can make, and a word of warning."""

import math
import re

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.family import Family

Size = tuple[int, int]
"""Width and height in pixels."""

_SDXL: tuple[Size, ...] = (
    (1024, 1024),
    (1024, 960),
    (1088, 960),
    (1088, 896),
    (1152, 896),
    (1152, 832),
    (1216, 832),
    (1280, 768),
    (1344, 768),
    (1344, 704),
    (1408, 704),
    (1472, 704),
    (1536, 640),
    (1600, 640),
    (1664, 576),
    (1728, 576),
    (1792, 576),
    (1856, 512),
    (1920, 512),
    (1984, 512),
    (2048, 512),
)
"""The wide half of SDXL's training sizes, https://arxiv.org/abs/2307.01952, appendix I; the tall half is the same turned."""

_SHAPE = re.compile(r"(\d{1,4}(?:\.\d{1,4})?)(?:\s*[:/xX]\s*(\d{1,4}(?:\.\d{1,4})?))?")
_MOST = 8.0
"""No shape is longer than so many times its width, or the other way round."""
_LONGEST = 2.5
"""The longest shape of a training size, but for SDXL."""
_COARSE, _FINE = 64, 16
"""What sides of training sizes are multiples of; tiny models have finer ones."""
_TINY = 256
_FAR = 2.0
"""So many times more or fewer pixels than it was trained on, and a model draws badly."""
_BEYOND = 1.1
"""So much longer than its longest training size, likewise."""


def buckets(card: ModelCard) -> tuple[Size, ...]:
    """The sizes that ``card``'s model is at home with and may make, widest shape first.

    Their area is that of the card's default size: 512, 768 or 1024 squared for Stable Diffusion 1, 2 and XL. SDXL has a
    published list. For all others they follow the usual rule of training by aspect-ratio buckets: every width in steps of 64,
    with the greatest height that does not exceed the area, as far as a shape of 5:2.
    """
    base = _base(card)
    wide = _SDXL if card.family is Family.SDXL and base == _SDXL[0][0] else _by_rule(base)
    both = {*wide, *((height, width) for width, height in wide)}
    limits = card.limits
    allowed = [size for size in both if size[0] * size[1] <= limits.max_pixels and min(size) >= limits.min_side]
    return tuple(sorted(allowed or [fit(base, base, card)], key=lambda size: -size[0] / size[1]))


def nearest(ratio: str, card: ModelCard) -> Size:
    """The native size of ``card``'s model whose shape is nearest to ``ratio``, such as ``16:9``, ``2/3`` or ``1.5``.

    Raises `InvalidRequest` for anything else, and for shapes past 8:1.
    """
    return _nearest(_shape(ratio), card)


def fit(width: int, height: int, card: ModelCard) -> Size:
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


def suited(width: int, height: int, card: ModelCard) -> Size:
    """The size at which to work on a ``width`` x ``height`` picture: its own if the model is up to it, else a native one."""
    size = fit(width, height, card)
    return size if warning(*size, card) is None else _nearest(width / height, card)


def warning(width: int, height: int, card: ModelCard) -> str | None:
    """What to expect of ``width`` x ``height`` that is far from everything ``card``'s model was trained on; None if it is not."""
    if card.family is Family.FAKE:
        return None
    base = _base(card)
    native = _nearest(width / height, card)
    end = f"The nearest size it was trained on is {native[0]}x{native[1]}."
    share = width * height / base**2
    if share > _FAR:
        return (
            f"{width}x{height} is much larger than what model {card.id!r} was trained on: expect repeated subjects. {end} "
            "Make that, and enlarge it."
        )
    if share < 1 / _FAR:
        return (
            f"{width}x{height} is much smaller than what model {card.id!r} was trained on: expect coarse, cut-off subjects. "
            f"{end} Make that, and scale it down."
        )
    longest = max(max(size) / min(size) for size in buckets(card))
    if max(width, height) / min(width, height) > longest * _BEYOND:
        return f"{width}x{height} is a longer shape than any model {card.id!r} was trained on: expect repeated subjects. {end}"
    return None


def _base(card: ModelCard) -> int:
    """The side of the square that the model was trained on, from the area of its default size."""
    side = math.sqrt(card.defaults.width * card.defaults.height)
    step = _FINE if side < _TINY else _COARSE
    return max(step, round(side / step) * step)


def _by_rule(base: int) -> tuple[Size, ...]:
    step = _FINE if base < _TINY else _COARSE
    sizes = ((width, base * base // width // step * step) for width in range(base, 2 * base, step))
    return tuple(size for size in sizes if size[0] <= _LONGEST * size[1])


def _nearest(shape: float, card: ModelCard) -> Size:
    return min(buckets(card), key=lambda size: (abs(math.log(size[0] / size[1] / shape)), -size[0] * size[1]))


def _shape(ratio: str) -> float:
    found = _SHAPE.fullmatch(ratio.strip())
    across, down = (float(part or 1) for part in found.groups()) if found else (0.0, 0.0)
    if across <= 0 or down <= 0 or not 1 / _MOST <= across / down <= _MOST:
        msg = f"The aspect ratio {ratio!r} will not do: write it as 16:9, 2:3 or 1.5, between 1:{_MOST:g} and {_MOST:g}:1."
        raise InvalidRequest(msg, param="aspect_ratio")
    return across / down
