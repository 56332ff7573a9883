"""Margins, and colours spread into what is unknown."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.adapters.canvas import framed, grown, spread
from pipelines.contract.inpainting import Margins

MARGINS = Margins(left=3, top=1, right=5, bottom=2)


def test_the_picture_stands_in_its_margins_and_its_edges_go_on():
    array = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    canvas = np.asarray(grown(Image.fromarray(array), MARGINS))
    assert canvas.shape == (9, 15, 3)
    assert np.array_equal(canvas[1:7, 3:10], array)
    assert (canvas[3, :3] == array[2, 0]).all()
    assert (canvas[7:, -5:] == array[-1, -1]).all()


def test_a_mask_is_framed_by_one_level():
    mask = np.asarray(framed(Image.new("L", (7, 6), 9), MARGINS, 200))
    assert (mask[1:7, 3:10] == 9).all()
    assert (mask == 200).sum() == 9 * 15 - 42


@settings(max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_what_is_known_stays_and_the_rest_lies_between_its_colours(height, width, share, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    known = (torch.rand(1, 1, height, width, generator=generator) < share).float()
    filled = spread(pixels * known + 7.0 * (1 - known), known)
    assert filled.shape == pixels.shape
    mask = known.expand_as(pixels) == 1
    assert torch.equal(filled[mask], pixels[mask])
    if mask.any():
        for channel in range(3):
            seen = pixels[0, channel][known[0, 0] == 1]
            assert filled[0, channel].min() >= seen.min() - 1e-5
            assert filled[0, channel].max() <= seen.max() + 1e-5


def test_with_nothing_known_it_is_grey():
    assert not spread(torch.zeros(1, 3, 16, 8), torch.zeros(1, 1, 16, 8)).any()


def test_near_colours_count_more_than_far_ones():
    pixels, known = torch.zeros(1, 1, 32, 96), torch.zeros(1, 1, 32, 96)
    pixels[..., :16], pixels[..., 80:] = -1.0, 1.0
    known[..., :16], known[..., 80:] = 1.0, 1.0
    row = spread(pixels, known)[0, 0, 16]
    assert (row[16:20] < -0.5).all()
    assert (row[76:80] > 0.5).all()
    assert (row.diff() >= -1e-4).all(), "smoothly from one to the other"
    assert float(row.diff().abs().max()) < 0.25


def test_half_known_is_half_old_half_spread():
    pixels, known = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    pixels[..., 4, 4], known[..., 4, 4] = -1.0, 0.5
    value = float(spread(pixels, known)[..., 4, 4])
    assert value == pytest.approx(-0.5 + 0.5 * 0.8, abs=0.25)
