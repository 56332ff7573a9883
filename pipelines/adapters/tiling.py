"""Large pictures through something that takes small ones: where the tiles lie, and how they become one picture without seams.

Near an edge that is only a tile's own, a network guesses what lies beyond. So the outer quarter of each overlap counts for
nothing, the half between the two outer quarters blends one tile into the next, and what reaches less than that quarter far (a
convolution stack's receptive field to one side) comes out as if the picture had gone through whole.
"""

from collections.abc import Sequence
from itertools import product

import msgspec
import torch


class Box(msgspec.Struct, frozen=True):
    """Where a tile lies, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Grid(msgspec.Struct, frozen=True):
    """Tiles over a picture of ``width`` x ``height``: the lefts of their columns, the tops of their rows, one size for all."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    lefts: tuple[int, ...]
    tops: tuple[int, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.lefts) * len(self.tops)

    def box(self, index: int) -> Box:
        """The tile of that number, row by row from the top left; one that is larger than the picture hangs over it."""
        top, left = list(product(self.tops, self.lefts))[index]
        return Box(left, top, self.tile_width, self.tile_height)


def grid(width: int, height: int, tile: int, overlap: int, multiple: int = 1) -> Grid:
    """The fewest tiles of at most ``tile`` pixels a side that overlap by at least ``overlap``, evenly spread.

    Where the picture is smaller than a tile, the tile is as small, rounded up to a ``multiple``. ``tile`` is a multiple itself
    and larger than ``overlap``.
    """
    tile_width = min(tile, -(-width // multiple) * multiple)
    tile_height = min(tile, -(-height // multiple) * multiple)
    lefts, tops = _starts(width, tile_width, overlap), _starts(height, tile_height, overlap)
    return Grid(width, height, tile_width, tile_height, lefts, tops)


def cut(pixels: torch.Tensor, box: Box) -> torch.Tensor:
    """The part of ``pixels`` [..., H, W] in ``box``; what hangs over repeats the picture's last row and column."""
    part = pixels[..., box.top : box.top + box.height, box.left : box.left + box.width]
    over = (0, box.width - part.shape[-1], 0, box.height - part.shape[-2])
    if not any(over):
        return part
    return torch.nn.functional.pad(part.reshape(1, -1, *part.shape[-2:]), over, mode="replicate").reshape(
        *part.shape[:-2], box.height, box.width
    )


class Canvas:
    """The picture that tiles are blended into, in any order; it is right once every tile was put down."""

    __slots__ = ("_across", "_down", "_grid", "_pixels", "_scale")

    def __init__(self, grid: Grid, scale: int = 1) -> None:
        """Tiles come ``scale`` times as large as ``grid`` says. The canvas is float32, in main memory."""
        self._grid, self._scale = grid, scale
        self._pixels = torch.zeros(3, grid.height * scale, grid.width * scale)
        self._across = _weights(grid.lefts, grid.tile_width, grid.width, scale)
        self._down = _weights(grid.tops, grid.tile_height, grid.height, scale)

    def put(self, index: int, tile: torch.Tensor) -> None:
        """Add tile ``index``, [3, h, w] in 0..1; each just once."""
        row, column = divmod(index, len(self._grid.lefts))
        down, across = self._down[row], self._across[column]
        top, left = self._grid.tops[row] * self._scale, self._grid.lefts[column] * self._scale
        shown = tile[:, : len(down), : len(across)].to("cpu", torch.float32)
        self._pixels[:, top : top + len(down), left : left + len(across)] += shown * (down[:, None] * across)

    def pixels(self) -> torch.Tensor:
        """All tiles as one, [3, H, W] in 0..1."""
        return self._pixels.clamp(0, 1)


def _starts(side: int, tile: int, overlap: int) -> tuple[int, ...]:
    if tile >= side:
        return (0,)
    count = -(-(side - overlap) // (tile - overlap))
    return tuple(round(index * (side - tile) / (count - 1)) for index in range(count))


def _weights(starts: Sequence[int], tile: int, side: int, scale: int) -> list[torch.Tensor]:
    """For each tile along one axis, what its pixels count for: together exactly one everywhere."""
    raw = []
    for index, start in enumerate(starts):
        length = min(tile, side - start)
        weight = torch.ones(length * scale, dtype=torch.float64)
        if index > 0:
            rise = _rise(starts[index - 1] + tile - start, scale)
            weight[: len(rise)] *= rise
        if index + 1 < len(starts):
            fall = _rise(start + tile - starts[index + 1], scale)
            weight[len(weight) - len(fall) :] *= fall.flip(0)
        raw.append(weight)
    total = torch.zeros(side * scale, dtype=torch.float64)
    for start, weight in zip(starts, raw, strict=True):
        total[start * scale : start * scale + len(weight)] += weight
    return [
        (weight / total[start * scale : start * scale + len(weight)]).float() for start, weight in zip(starts, raw, strict=True)
    ]


def _rise(overlap: int, scale: int) -> torch.Tensor:
    """From nothing to all over an overlap: a quarter of nothing, a ramp of a half, a quarter of all."""
    at = (torch.arange(overlap * scale, dtype=torch.float64) + 0.5) / (overlap * scale)
    return ((at - 0.25) * 2).clamp(0, 1)
