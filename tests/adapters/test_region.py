"""Cropping around a mask and putting back, against diffusers."""

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.adapters.region import around, cut_out, fit_back

SIDE = st.integers(8, 160)


@given(
    size=st.tuples(SIDE, SIDE),
    corner=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    extent=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    shape=st.sampled_from([(64, 64), (128, 64), (64, 128), (1216, 832), (832, 1216), (512, 768)]),
    padding=st.integers(0, 40),
)
def test_the_box_is_that_of_diffusers(size, corner, extent, shape, padding):
    mask = Image.new("L", size, 0)
    left, top = int(corner[0] * size[0]), int(corner[1] * size[1])
    right, bottom = (
        left + 1 + int(extent[0] * (size[0] - left - 1)),
        top + 1 + int(extent[1] * (size[1] - top - 1)),
    )
    mask.paste(255, (left, top, right, bottom))
    box = around(mask, *shape, padding)
    assert box == VaeImageProcessor.get_crop_region(mask, *shape, pad=padding)
    assert box[0] <= left < right <= box[2] <= size[0]
    assert box[1] <= top < bottom <= box[3] <= size[1]


def test_grey_counts_as_masked():
    mask = Image.new("L", (40, 40), 0)
    mask.putpixel((5, 30), 1)
    assert around(mask, 64, 64, 0) == (5, 30, 6, 31)


def photo(width, height):
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("box", [(10, 10, 42, 42), (0, 0, 64, 63), (20, 30, 51, 61), (0, 20, 120, 40), (30, 0, 45, 80)])
def test_what_is_cut_out_comes_back_to_its_place(box):
    canvas = photo(120, 80)
    part = cut_out(canvas, box, 256, 256)
    assert part.size == (256, 256)
    back = fit_back(part, box)
    assert back.size == canvas.crop(box).size
    assert np.abs(np.asarray(back).astype(int) - np.asarray(canvas.crop(box))).mean() < 3


def test_a_box_a_pixel_off_its_shape_is_stretched_and_has_no_bars():
    canvas = Image.new("RGB", (40, 40), "white")
    canvas.paste("red", (0, 20, 40, 21))
    canvas.paste("black", (0, 21, 40, 40))
    part = np.asarray(cut_out(canvas, (0, 0, 40, 21), 512, 256))
    assert (part[-6:, :, 0] > 250).all()
    assert (part[-6:, :, 1] < 5).all(), "the red line reaches the end and no further"
