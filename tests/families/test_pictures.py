"""Pictures on their way in: sizes and geometry."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from pipelines.contract.picture import Resize
from pipelines.contract.request import Init
from pipelines.families.pictures import fit, init_pixels, to_picture


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


@pytest.mark.parametrize(("how", "mode"), [(Resize.CROP, "crop"), (Resize.FILL, "fill"), (Resize.STRETCH, "default")])
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 64), (96, 40), (33, 47)])
def test_every_way_of_fitting_equals_diffusers(how, mode, size):
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (50, 91, 3), dtype=np.uint8))
    ours = np.asarray(fit(image, *size, how))
    theirs = np.asarray(VaeImageProcessor().resize(image, size[1], size[0], resize_mode=mode))
    if how is Resize.FILL:
        # Their bars are the two outermost lines extrapolated by a bicubic filter, ours the outermost line itself.
        width, height = min(size[0], 91 * size[1] // 50), min(size[1], 50 * size[0] // 91)
        left, top = size[0] // 2 - width // 2, size[1] // 2 - height // 2
        inner = (slice(top, top + height), slice(left, left + width))
        padding = [(top, size[1] - height - top), (left, size[0] - width - left), (0, 0)]
        assert np.array_equal(ours, np.pad(theirs[inner], padding, mode="edge"))
        return
    assert np.array_equal(ours, theirs)


def test_a_picture_already_of_the_size_is_untouched():
    image = banner(64, 64)
    for how in Resize:
        assert np.array_equal(np.asarray(fit(image, 64, 64, how)), np.asarray(image))


def test_pixels_are_between_minus_one_and_one():
    pixels = init_pixels(Init(to_picture(banner(64, 64)), 0.5), 64, 64)
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels.dtype is torch.float32
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
