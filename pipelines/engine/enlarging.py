"""Pictures on their way to larger ones, a bounded piece at a time, and what a later pass begins from.

A second pass draws from the generator that the first has left, in the order of diffusers' img2img: a picture that was enlarged as
pixels is encoded and its latents are drawn from the VAE's posterior, then the noise; latents that were enlarged themselves draw
the noise only. Tiles are images of their own: each has a generator seeded with its picture's seed plus its number.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling

from pipelines.adapters.opened import Find
from pipelines.adapters.resampling import as_picture, as_pixels, resized
from pipelines.adapters.tiling import Canvas, Grid, cut, grid
from pipelines.adapters.upscaler import Upscaler
from pipelines.contract.control import ControlUse
from pipelines.contract.enlarging import Hires, Tiles, Upscale
from pipelines.contract.picture import Picture
from pipelines.engine.row import Row, RowId
from pipelines.engine.state import RowState
from pipelines.families.family import Family
from pipelines.families.pictures import fit, to_image, to_picture
from pipelines.sampling.noise import Noise

_MULTIPLE = 8


class Held(msgspec.Struct, frozen=True):
    """What a pass after the first begins from: latents or pixels, and the random numbers that go on."""

    noise: Noise
    latents: torch.Tensor | None = None
    """[1, C, h, w], clean and scaled, of the first size."""
    pixels: torch.Tensor | None = None
    """[1, 3, H, W] in -1..1, of the new size."""
    controls: tuple[ControlUse, ...] = ()
    """A tile: the request's, each with its part of the control image."""


def enlarged(latents: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor:
    """``latents`` at the height and width of ``shape``: bilinear without antialiasing, which is A1111's "Latent"."""
    if latents is None:
        msg = "unreachable: a pass begins from pixels or from latents"
        raise ValueError(msg)
    return F.interpolate(latents, size=shape[-2:], mode="bilinear", antialias=False)


class Enlarging:
    """One picture on its way to its new size. Mutable; owned by the runner."""

    __slots__ = ("_canvas", "_grid", "_left", "_size", "_upscaler", "pixels")

    def __init__(self, pixels: torch.Tensor, wanted: Hires | Upscale, upscaler: Upscaler | None) -> None:
        """Enlarge ``pixels`` [3, h, w] to the size of ``wanted``: by ``upscaler`` and a filter, or by the filter alone."""
        self.pixels = pixels
        """As it is now, [3, H, W] in 0..1, in main memory."""
        self._size = (wanted.width, wanted.height)
        self._upscaler = upscaler
        self._grid: Grid | None = None
        self._canvas: Canvas | None = None
        self._left = 1
        if upscaler is not None:
            self._grid = upscaler.grid(pixels.shape[2], pixels.shape[1])
            self._left = len(self._grid)

    def advance(self) -> int:
        """Do one piece, a tile through the network; returns how many are left. A piece that fails can be done again."""
        if self._upscaler is not None and self._grid is not None:
            if self._canvas is None:
                self._canvas = Canvas(self._grid, self._upscaler.scale)
            index = len(self._grid) - self._left
            self._canvas.put(index, self._upscaler.enlarged(cut(self.pixels, self._grid.box(index))))
        self._left -= 1
        if self._left == 0:
            made = self.pixels if self._canvas is None else self._canvas.pixels()
            self.pixels = resized(made, *self._size)
            self._canvas = None
        return self._left


class Redrawing:
    """An enlarged picture whose tiles are being drawn again by rows of their own. Mutable; owned by the runner."""

    __slots__ = ("_canvas", "_controls", "_grid", "pixels")

    def __init__(self, pixels: torch.Tensor, tiles: Tiles, controls: tuple[ControlUse, ...]) -> None:
        """Cut ``pixels`` [3, H, W] in 0..1 into ``tiles``; ``controls`` are about the whole picture and are cut with it."""
        self.pixels = pixels
        """As it is now: it changes when all tiles are there."""
        self._grid = grid(pixels.shape[2], pixels.shape[1], tiles.size, tiles.overlap, _MULTIPLE)
        self._canvas = Canvas(self._grid)
        size = (pixels.shape[2], pixels.shape[1])
        self._controls = [
            (use, as_pixels(to_picture(fit(to_image(use.picture).convert("RGB"), *size, use.resize)))) for use in controls
        ]

    def tile(self, index: int) -> torch.Tensor:
        """Tile ``index`` as it is to be redrawn, [3, h, w]."""
        return cut(self.pixels, self._grid.box(index))

    def controls(self, index: int) -> tuple[ControlUse, ...]:
        """The controls of tile ``index``."""
        box = self._grid.box(index)
        return tuple(msgspec.structs.replace(use, picture=as_picture(cut(whole, box))) for use, whole in self._controls)

    def put(self, index: int, drawn: torch.Tensor) -> None:
        """Take tile ``index`` as it has been redrawn, [3, h, w] in 0..1; each just once."""
        self._canvas.put(index, drawn)

    def advance(self) -> int:
        """Put them together; nothing is left to do."""
        self.pixels = self._canvas.pixels()
        return 0


class Enlargements:
    """Owns what rows hold between being decoded and being finished, or begun again."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        """No row is being enlarged."""
        self._held: dict[RowId, Enlarging | Redrawing] = {}

    def take(self, row: Row, pixels: torch.Tensor, find: Find) -> None:
        """``row`` has its ``pixels`` [3, H, W] but is not finished: it is a tile of its whole, or to be enlarged.

        ``find`` finds the upscaler, if one is asked for.
        """
        if row.whole is not None and row.tile is not None:
            self._redrawing(row.whole).put(row.tile, pixels)
            return
        wanted = row.enlarging
        if wanted is None:
            msg = "unreachable: a row that is not to be enlarged is finished"
            raise ValueError(msg)
        upscaler = None if wanted.card is None else find(wanted.card)
        if upscaler is not None and not isinstance(upscaler, Upscaler):
            msg = "unreachable: upscaler cards open upscalers"
            raise TypeError(msg)
        self._held[row.id] = Enlarging(pixels, wanted, upscaler)

    def advance(self, row: Row) -> int:
        """Do one piece of ``row``'s enlarging; returns how many are left."""
        held = self._held[row.id]
        left = held.advance()
        upscale = row.request.upscale
        if not left and row.request.hires is None and upscale is not None and upscale.tiles is not None and not row.tiles:
            self._held[row.id] = Redrawing(held.pixels, upscale.tiles, row.request.controls)
        return left

    def picture(self, row: Row) -> Picture:
        """What has become of ``row``'s picture."""
        return as_picture(self._held[row.id].pixels)

    @contextmanager
    def held(self, row: Row, state: RowState | None, family: Family) -> Iterator[Held | None]:
        """What ``row`` begins its pass from; None for a first pass. ``state`` is what the pass before has left.

        If the block fails the random numbers are as before; if not, what was enlarged for it is let go.
        """
        if row.whole is not None and row.tile is not None:
            redrawing = self._redrawing(row.whole)
            noise = Noise(row.seed, family.device, family.dtype)
            yield Held(noise, pixels=_for_vae(redrawing.tile(row.tile)), controls=redrawing.controls(row.tile))
            return
        if not row.again:
            yield None
            return
        noise = Noise(row.seed, family.device, family.dtype) if state is None else state.solver.noise
        before = noise.state()
        try:
            if row.id in self._held:
                yield Held(noise, pixels=_for_vae(self._held[row.id].pixels))
            else:
                yield Held(noise, latents=None if state is None else state.latents)
        except BaseException:
            noise.restore(before)
            raise
        self.drop(row.id)

    def drop(self, row: RowId) -> None:
        """Let go of what is held for ``row``."""
        self._held.pop(row, None)

    def _redrawing(self, row: Row) -> Redrawing:
        held = self._held[row.id]
        if not isinstance(held, Redrawing):
            msg = "unreachable: tiles are those of a picture that is being redrawn"
            raise TypeError(msg)
        return held


def _for_vae(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[None] * 2 - 1
