"""What is done to a mask, in its order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from pipelines.adapters.masks import cut, edited, opacity, widened
from pipelines.contract.inpainting import Masking


def square(level=255, size=32):
    mask = Image.new("L", (size, size), 0)
    mask.paste(level, (12, 12, 20, 20))
    return mask


def array(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(("grey", "cut_to"), [(0, 0), (127, 0), (128, 255), (255, 255)])
def test_masks_are_cut_at_one_half(grey, cut_to):
    assert cut(Image.new("L", (4, 4), grey)).getcolors() == [(16, cut_to)]
    assert edited(Image.new("L", (4, 4), grey), Masking()).getcolors() == [(16, cut_to)]


def test_soft_masks_keep_their_greys_and_invert_them():
    assert edited(square(100), Masking(soft=True)).getpixel((15, 15)) == 100
    assert edited(square(100), Masking(soft=True, invert=True)).getpixel((15, 15)) == 155
    assert edited(square(100), Masking(invert=True)).getpixel((15, 15)) == 255


@pytest.mark.parametrize(("grow", "side"), [(0, 8), (1, 10), (5, 18), (-1, 6), (-3, 2), (-4, 0)])
def test_growing_moves_every_edge(grow, side):
    assert (array(edited(square(), Masking(grow=grow))) == 255).sum() == side * side


def test_shrinking_leaves_what_touches_the_picture_s_edge():
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    assert np.array_equal(array(widened(mask, -2))[:, :8].all(axis=0), [True] * 6 + [False] * 2)


def test_the_order_is_invert_grow_blur():
    masking = Masking(invert=True, grow=2, blur=1.5)
    inverted = square().point(lambda level: 255 - level)
    assert edited(square(), masking) == widened(inverted, 2).filter(ImageFilter.GaussianBlur(1.5))


@given(
    box=st.tuples(*[st.integers(0, 47)] * 4),
    grow=st.integers(-6, 9),
    blur=st.sampled_from([0.0, 0.3, 1.0, 2.5, 7.0, 20.0]),
    invert=st.booleans(),
)
def test_what_is_left_alone_all_around_would_not_have_changed(box, grow, blur, invert):
    mask = Image.new("L", (48, 48), 0)
    mask.paste(255, (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]) + 1, max(box[1], box[3]) + 1))
    wanted = widened(mask.point(lambda level: 255 - level) if invert else mask, grow)
    if blur > 0:
        wanted = wanted.filter(ImageFilter.GaussianBlur(blur))
    assert np.array_equal(array(edited(mask, Masking(invert=invert, grow=grow, blur=blur))), array(wanted))


def test_lengths_are_scaled_with_the_picture():
    large = edited(square(size=32).resize((64, 64), Image.Resampling.NEAREST), Masking(grow=2, blur=2), scale=2.0)
    small = edited(square(), Masking(grow=2, blur=2))
    assert np.abs(array(large.reduce(2)) - array(small)).max() <= 6


@pytest.mark.parametrize("masking", [Masking(blur=3), Masking(blur=3, soft=True), Masking(blur=3, grow=-20), Masking(grow=-20)])
def test_margins_are_white_in_the_end_whatever_is_done_to_the_mask(masking):
    margins = Image.new("L", (64, 64), 255)
    margins.paste(0, (16, 16, 48, 48))
    mask = array(edited(Image.new("L", (64, 64), 0), masking, margins))
    assert (mask[array(margins) == 255] == 255).all()


def test_the_blur_of_margins_lies_within_the_picture():
    margins = Image.new("L", (96, 8), 0)
    margins.paste(255, (64, 0, 96, 8))
    row = array(edited(Image.new("L", margins.size, 0), Masking(blur=4), margins))[4]
    assert row[63] > 240, "nothing of the colours under the margin is mixed in on the other side of the edge"
    assert (np.diff(row) >= 0).all()
    assert row[40] == 0
    assert row[48] < 160


def test_only_the_darkest_of_a_soft_mask_is_see_through():
    assert opacity(square(255), soft=True).getpixel((15, 15)) == 255
    assert opacity(square(32), soft=True).getpixel((15, 15)) == 255
    assert 0 < opacity(square(8), soft=True).getpixel((15, 15)) < 255
    assert opacity(square(1), soft=True).getpixel((0, 0)) == 0
    assert opacity(square(100), soft=False).getpixel((15, 15)) == 100
