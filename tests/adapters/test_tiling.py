"""Tiles: where they lie, and that together they are the picture."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.adapters.resampling import as_picture, as_pixels, resized
from pipelines.adapters.tiling import Canvas, cut, grid
from pipelines.contract.enlarging import Enlarger, Tiles, Upscale
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.passes import tiled

sizes = st.integers(1, 400)


def noise(width: int, height: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(width=sizes, height=sizes, tile=st.integers(4, 12), share=st.floats(0, 0.5), scale=st.integers(1, 3))
def test_tiles_put_together_are_the_picture(width, height, tile, share, scale):
    tile *= 8
    where = grid(width, height, tile, int(tile * share), 8)
    pixels = noise(width, height)
    larger = torch.nn.functional.interpolate(pixels[None], scale_factor=scale, mode="nearest")[0]
    canvas = Canvas(where, scale)
    for index in reversed(range(len(where))):
        box = where.box(index)
        part = cut(pixels, box)
        assert part.shape == (3, box.height, box.width)
        canvas.put(index, torch.nn.functional.interpolate(part[None], scale_factor=scale, mode="nearest")[0])
    assert (canvas.pixels() - larger).abs().max() < 1e-6


@given(width=sizes, height=sizes, tile=st.integers(4, 30), overlap=st.integers(0, 15))
def test_tiles_overlap_as_much_as_was_asked_and_are_no_more_than_needed(width, height, tile, overlap):
    tile *= 8
    where = grid(width, height, tile, overlap, 8)
    for starts, side, size in ((where.lefts, width, where.tile_width), (where.tops, height, where.tile_height)):
        assert size % 8 == 0
        assert starts[0] == 0
        assert starts[-1] + size >= side
        assert all(one + size - other >= overlap for one, other in pairwise(starts))
        if len(starts) > 1:
            assert (len(starts) - 1) * size - (len(starts) - 2) * overlap < side


@given(width=sizes, height=sizes, tile=st.integers(8, 30), overlap=st.integers(0, 32))
def test_the_engine_counts_them_alike(width, height, tile, overlap):
    tiles = Tiles(tile * 8, overlap, 0.3)
    sampling = Sampling("euler", 10, 1.0)
    request = ImageRequest(id="r", model="m", prompt="", width=64, height=64, seeds=(0,), sampling=sampling)
    found = tiled(request, Upscale(width, height, Enlarger.LANCZOS, None, tiles), tiles)
    where = grid(width, height, tiles.size, tiles.overlap, 8)
    assert (found.rows, found.request.width, found.request.height) == (len(where), where.tile_width, where.tile_height)


def test_what_a_tile_guesses_near_its_own_edge_does_not_count():
    where = grid(200, 64, 64, 16)
    canvas = Canvas(where)
    for index in range(len(where)):
        tile = torch.full((3, 64, 64), 0.5)
        if index > 0:
            tile[..., :4] = 9.0
        if index + 1 < len(where):
            tile[..., -4:] = 9.0
        canvas.put(index, tile)
    assert (canvas.pixels() - 0.5).abs().max() < 1e-6


def test_unlike_tiles_meet_without_a_step():
    where = grid(112, 64, 64, 16)
    canvas = Canvas(where)
    for index in range(len(where)):
        canvas.put(index, torch.full((3, 64, 64), float(index)))
    steps = canvas.pixels()[0, 0].diff()
    assert steps.max() <= 1 / 8 + 1e-6, "a ramp over half the overlap"
    assert steps.sum() == pytest.approx(1.0)


def test_pixels_survive_being_a_picture_and_resampling_by_one():
    picture = as_picture(noise(30, 20))
    assert as_picture(as_pixels(picture)) == picture
    assert resized(as_pixels(picture), 30, 20).equal(as_pixels(picture))
    assert resized(torch.full((3, 20, 30), 0.3), 77, 13) == pytest.approx(0.3)
    edge = torch.zeros(3, 8, 8)
    edge[..., 4:] = 1.0
    assert 0.0 <= resized(edge, 64, 64).min() <= resized(edge, 64, 64).max() <= 1.0, "no ringing out of range"
