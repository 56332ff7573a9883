"""Pictures and masks made ready for the steps, and put back after them."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.adapters.inpainting import prepared, put_back, puts_back
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.inpainting import Margins, MaskedContent, Masking
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import Init
from pipelines.engine.state import Kept
from pipelines.families.pictures import init_pixels, to_image, to_picture


def banner(width: int = 120, height: int = 40) -> Image.Image:
    """Red, green, blue thirds from left to right."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    for third in range(3):
        array[:, third * width // 3 : (third + 1) * width // 3, third] = 255
    return Image.fromarray(array)


def box(size, *edges):
    mask = Image.new("L", size, 0)
    mask.paste(255, edges)
    return Picture(width=size[0], height=size[1], mode="L", data=mask.tobytes())


def test_plainly_it_is_the_picture_and_a_mask_of_black_and_white():
    init = Init(to_picture(banner(64, 64)), 0.5, mask=box((64, 64), 8, 16, 32, 64))
    ready = prepared(init, 64, 64)
    assert torch.equal(ready.pixels, init_pixels(init, 64, 64))
    assert ready.mask.unique().tolist() == [0.0, 1.0]
    small = ready.shrunk(8, 8)
    assert small.sum() == 3 * 6
    assert small[0, 0, 2:, 1:4].all()
    assert torch.equal(ready.shown, ready.pixels * (ready.mask < 0.5))


def test_a_mask_follows_its_picture_through_a_crop():
    init = Init(to_picture(banner()), 0.5, Resize.CROP, box((120, 40), 40, 0, 80, 40))
    assert prepared(init, 40, 40).mask.mean() > 0.9


def test_a_mask_between_the_corners_of_latents_is_not_lost():
    """diffusers looks at one pixel in 64, and would repaint nothing."""
    init = Init(to_picture(banner(64, 64)), 0.5, mask=box((64, 64), 10, 10, 15, 15))
    assert prepared(init, 64, 64).shrunk(8, 8).nonzero().tolist() == [[0, 0, 1, 1]]


def test_a_soft_mask_is_averaged():
    mask = Image.new("L", (64, 64), 0)
    mask.paste(102, (0, 0, 8, 4))
    init = Init(to_picture(banner(64, 64)), 0.5, mask=Picture(64, 64, "L", mask.tobytes()), masking=Masking(soft=True))
    assert float(prepared(init, 64, 64).shrunk(8, 8)[0, 0, 0, 0]) == pytest.approx(0.2)


@pytest.mark.parametrize("soft", [False, True])
def test_latents_that_margins_touch_are_repainted_wholly(soft):
    margins = Margins(left=20, top=4, right=28, bottom=36)
    ready = prepared(Init(to_picture(banner(48, 56)), 1.0, outpaint=margins, masking=Masking(soft=soft)), 96, 96)
    kept = ready.shrunk(12, 12)[0, 0] == 0
    # Pixels 20..67 across hold whole latents 3..7 (24..63), pixels 4..59 down 1..6.
    wanted = torch.zeros(12, 12, dtype=torch.bool)
    wanted[1:7, 3:8] = True
    assert torch.equal(kept, wanted)


def test_margins_get_the_colours_around():
    ready = prepared(Init(to_picture(banner(48, 48)), 1.0, outpaint=Margins(left=16, right=16)), 80, 48)
    red, blue = ready.pixels[0, :, 24, 15], ready.pixels[0, :, 24, 64]
    assert red[0] > 0.8
    assert red[2] < -0.5
    assert blue[2] > 0.8
    assert blue[0] < -0.5


def test_filling_takes_away_what_is_masked():
    image = Image.new("RGB", (64, 64), "blue")
    image.paste("red", (24, 24, 40, 40))
    init = Init(to_picture(image), 0.5, mask=box((64, 64), 22, 22, 42, 42), masking=Masking(content=MaskedContent.FILL))
    blue = torch.tensor([-1.0, -1.0, 1.0])[None, :, None, None]
    assert (prepared(init, 64, 64).pixels - blue).abs().max() < 1e-3


def test_other_contents_stand_in_the_latents():
    latents, noise, mask = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 5.0), torch.tensor([[[[0, 1], [0.5, 0]]]])
    found = {}
    for content in MaskedContent:
        init = Init(to_picture(banner(64, 64)), 0.5, mask=box((64, 64), 8, 16, 32, 64), masking=Masking(content=content))
        found[content] = prepared(init, 64, 64).begun(latents, mask, noise)[0, 0].tolist()
    assert found[MaskedContent.ORIGINAL] == found[MaskedContent.FILL] == [[3, 3], [3, 3]]
    assert found[MaskedContent.LATENT_NOISE] == [[3, 5], [4, 3]]
    assert found[MaskedContent.LATENT_NOTHING] == [[3, 0], [1.5, 3]]


def test_only_masked_looks_at_the_part_at_full_size():
    init = Init(to_picture(banner()), 0.5, mask=box((120, 40), 52, 15, 62, 25), masking=Masking(only_masked=True, padding=5))
    ready = prepared(init, 64, 64)
    assert ready.pixels.shape == (1, 3, 64, 64)
    assert (ready.pixels[0, 1] == 1).all(), "green alone"
    assert ready.mask.mean() == pytest.approx(0.25, abs=0.03)


def test_a_mask_that_keeps_everything_is_refused():
    for masking in (Masking(), Masking(only_masked=True)):
        with pytest.raises(InvalidRequest, match="nothing to repaint"):
            prepared(Init(to_picture(banner()), 0.5, mask=box((120, 40), 0, 0, 0, 0), masking=masking), 64, 64)
    with pytest.raises(InvalidRequest, match="nothing to repaint"):
        prepared(Init(to_picture(banner()), 0.5, mask=box((120, 40), 0, 0, 8, 8), masking=Masking(grow=-20)), 120, 40)
    with pytest.raises(InvalidRequest, match="nothing is left of it"):
        prepared(Init(to_picture(banner()), 0.5, mask=box((120, 40), 40, 10, 44, 14), masking=Masking(blur=9)), 120, 40)


@pytest.mark.parametrize(
    ("masking", "keep", "wanted"),
    [
        (Masking(), False, False),
        (Masking(), True, True),
        (Masking(blur=2), False, True),
        (Masking(blur=2, soft=True), False, False),
        (Masking(only_masked=True), False, True),
    ],
)
def test_when_the_input_s_pixels_are_put_back(masking, keep, wanted):
    picture = to_picture(banner(64, 64))
    assert puts_back(Init(picture, mask=box((64, 64), 0, 0, 8, 8), masking=masking, keep_unmasked=keep)) is wanted
    assert not puts_back(Init(picture, keep_unmasked=True)), "img2img keeps nothing"


def test_what_the_mask_keeps_is_the_input_to_the_bit():
    init = Init(to_picture(banner(64, 64)), 0.5, Resize.STRETCH, box((64, 64), 0, 0, 32, 64))
    array = np.asarray(to_image(put_back(init, to_picture(Image.new("RGB", (64, 64), "white")), 64, 64)))
    assert (array[:, :32] == 255).all()
    assert np.array_equal(array[:, 32:], np.asarray(banner(64, 64))[:, 32:])


def test_an_image_enlarged_meanwhile_goes_onto_the_picture_enlarged():
    init = Init(to_picture(banner(64, 64)), 0.5, mask=box((64, 64), 0, 0, 32, 64), masking=Masking(blur=2))
    made = to_picture(Image.new("RGB", (128, 128), "white"))
    array = np.asarray(to_image(put_back(init, made, 64, 64)))
    assert array.shape == (128, 128, 3)
    assert (array[:, :40] == 255).all()
    assert np.array_equal(array[:, 80:], np.asarray(banner(64, 64).resize((128, 128), Image.Resampling.LANCZOS))[:, 80:])


def test_an_enlarged_part_goes_back_to_its_place():
    init = Init(to_picture(banner()), 0.5, mask=box((120, 40), 52, 15, 62, 25), masking=Masking(only_masked=True, padding=5))
    for side in (64, 128):
        array = np.asarray(to_image(put_back(init, to_picture(Image.new("RGB", (side, side), "white")), 64, 64)))
        assert (array[15:25, 52:62] == 255).all()
        changed = (array != np.asarray(banner())).any(axis=2)
        assert changed.sum() == 100


def test_each_strength_of_a_soft_mask_has_its_turn():
    """Kept while 1 - strength > the share of the steps that are done, as the paper says; black is never repainted."""
    mask = torch.tensor([[[[0.0, 0.25, 0.5, 1.0]]]])
    kept = Kept(mask, torch.zeros(1, 4, 1, 4), torch.zeros(1, 4, 1, 4), soft=True)
    turns = {done: kept.repainted(done)[0, 0, 0].tolist() for done in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert turns == {0.0: [0, 0, 0, 1], 0.25: [0, 0, 0, 1], 0.5: [0, 0, 1, 1], 0.75: [0, 1, 1, 1], 1.0: [0, 1, 1, 1]}
