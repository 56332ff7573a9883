"""From the size that is asked for to one that an upstream makes: pure.

What comes back is then scaled and cut to the size that was asked for, so a canvas is best that covers it with little to spare.
"""

import itertools
import math
from collections.abc import Sequence

import msgspec

Size = tuple[int, int]
"""Width and height in pixels."""


class Free(msgspec.Struct, frozen=True):
    """Any size within these bounds (OpenAI's from gpt-image-2 on)."""

    multiple: int = 16
    least_pixels: int = 655_360
    most_pixels: int = 8_294_400
    longest: int = 3840
    most_ratio: float = 3.0

    def allows(self, width: int, height: int) -> bool:
        """Whether the upstream takes it."""
        return (
            width % self.multiple == 0
            and height % self.multiple == 0
            and self.least_pixels <= width * height <= self.most_pixels
            and max(width, height) <= self.longest
            and max(width, height) <= self.most_ratio * min(width, height)
        )


def nearest(width: int, height: int, sizes: Sequence[Size]) -> Size:
    """The one of ``sizes`` nearest in shape; of several such the smallest that needs no enlarging, else the largest."""
    shape = math.log(width / height)

    def distance(size: Size) -> tuple[float, bool, int]:
        area = size[0] * size[1]
        small = area < width * height
        return round(abs(math.log(size[0] / size[1]) - shape), 3), small, -area if small else area

    return min(sizes, key=distance)


def within(width: int, height: int, bounds: Free) -> Size:
    """The size within ``bounds`` that is nearest to a canvas around ``width`` x ``height``; that very size if it is allowed."""
    if bounds.allows(width, height):
        return width, height
    ratio = min(max(width / height, 1 / bounds.most_ratio), bounds.most_ratio)
    across, down = max(width, height * ratio), max(height, width / ratio)
    scale = max(1.0, math.sqrt(bounds.least_pixels / (across * down)))
    scale = min(scale, math.sqrt(bounds.most_pixels / (across * down)), bounds.longest / max(across, down))
    widths, heights = (_near(side * scale, bounds.multiple) for side in (across, down))
    fitting = [size for size in itertools.product(widths, heights) if min(size) > 0 and bounds.allows(*size)]

    def distance(size: Size) -> tuple[bool, float, float]:
        short = size[0] < min(across * scale, width) or size[1] < min(down * scale, height)
        return short, abs(math.log(size[0] / size[1] / ratio)), abs(math.log(size[0] * size[1] / (across * down * scale**2)))

    return min(fitting, key=distance)


def _near(side: float, multiple: int) -> tuple[int, int, int, int]:
    low = int(side) // multiple * multiple
    return low - multiple, low, low + multiple, low + 2 * multiple


def ratio_name(width: int, height: int, names: Sequence[str]) -> str:
    """The one of ``names``, such as ``16:9``, whose shape is nearest."""

    def distance(name: str) -> float:
        across, _, down = name.partition(":")
        return abs(math.log(int(across) / int(down) / (width / height)))

    return min(names, key=distance)
