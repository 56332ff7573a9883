"""Pictures on their way in: sizes, geometry, masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import Init
from pipelines.families.pictures import fit, init_pixels, keep_outside_mask, mask_pixels, to_image, to_picture


def banner(width: int = 120, height: int = 40) -> Image.Image:
    """Red, green, blue thirds from left to right."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    for third in range(3):
        array[:, third * width // 3 : (third + 1) * width // 3, third] = 255
    return Image.fromarray(array)


@pytest.mark.parametrize("how", list(Resize))
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 64), (8, 8), (121, 39)])
def test_always_the_size_asked_for(how, size):
    assert fit(banner(), *size, how).size == size


def test_stretch_keeps_everything_and_changes_the_aspect():
    array = np.asarray(fit(banner(), 60, 60, Resize.STRETCH))
    assert array[30, 5, 0] > 200
    assert array[30, 55, 2] > 200


def test_crop_keeps_the_middle():
    array = np.asarray(fit(banner(), 40, 40, Resize.CROP))
    assert (array[20, :, 1] > 200).mean() > 0.9


def test_fill_keeps_everything_and_continues_the_edges():
    array = np.asarray(fit(banner(), 120, 120, Resize.FILL))
    assert array[60, 5, 0] > 200
    assert array[60, 115, 2] > 200
    assert (array[2] == array[45]).all(), "above the picture stands its first line"


def test_a_picture_already_of_the_size_is_untouched():
    image = banner(64, 64)
    for how in Resize:
        assert np.array_equal(np.asarray(fit(image, 64, 64, how)), np.asarray(image))


def test_pixels_are_between_minus_one_and_one():
    pixels = init_pixels(Init(to_picture(banner(64, 64)), 0.5), 64, 64)
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels.dtype is torch.float32
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)


@pytest.mark.parametrize(("grey", "repainted"), [(0, 0.0), (127, 0.0), (128, 1.0), (255, 1.0)])
def test_masks_are_cut_at_one_half(grey, repainted):
    mask = Picture(width=8, height=8, mode="L", data=bytes([grey]) * 64)
    pixels = mask_pixels(Init(to_picture(banner(64, 64)), 0.5, Resize.STRETCH, mask), 64, 64)
    assert pixels.unique().tolist() == [repainted]


def test_a_mask_follows_its_picture_through_a_crop():
    mask = Image.new("L", (120, 40), 0)
    mask.paste(255, (40, 0, 80, 40))
    init = Init(to_picture(banner()), 0.5, Resize.CROP, Picture(width=120, height=40, mode="L", data=mask.tobytes()))
    assert mask_pixels(init, 40, 40).mean() > 0.9


def test_what_the_mask_keeps_is_the_input_to_the_bit():
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    init = Init(to_picture(banner(64, 64)), 0.5, Resize.STRETCH, Picture(width=64, height=64, mode="L", data=mask.tobytes()))
    drawn = to_picture(Image.new("RGB", (64, 64), "white"))
    array = np.asarray(to_image(keep_outside_mask(init, drawn)))
    assert (array[:, :32] == 255).all()
    assert np.array_equal(array[:, 32:], np.asarray(banner(64, 64))[:, 32:])
