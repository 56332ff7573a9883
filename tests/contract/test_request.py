"""What a request says of itself."""

import pytest

from pipelines.contract.enlarging import Hires, Upscale
from pipelines.contract.errors import InvalidRequest, TooLarge
from pipelines.contract.inpainting import MAX_LENGTH, Margins, Masking, check
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling

PICTURE = Picture(30, 20, "RGB", bytes(1800))
MASK = Picture(30, 20, "L", bytes(600))
PART = Masking(only_masked=True)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (64, 48)),
        ({"init": Init(PICTURE)}, (64, 48)),
        ({"init": Init(PICTURE, mask=MASK)}, (64, 48)),
        ({"init": Init(PICTURE, mask=MASK, masking=PART)}, (30, 20)),
        ({"init": Init(PICTURE, outpaint=Margins(1, 2, 3, 4))}, (64, 48)),
        ({"init": Init(PICTURE, outpaint=Margins(1, 2, 3, 4), masking=PART)}, (34, 26)),
        ({"init": Init(PICTURE, mask=MASK, masking=PART), "hires": Hires(128, 96)}, (30, 20)),
        ({"hires": Hires(128, 96)}, (128, 96)),
        ({"hires": Hires(128, 96), "upscale": Upscale(256, 192)}, (256, 192)),
    ],
)
def test_the_size_of_what_comes_back(fields, size):
    request = ImageRequest("r", "m", "p", 64, 48, (1,), Sampling("euler", 4, 1.0), **fields)
    assert request.finished_size == size


def test_what_is_kept_in_part():
    assert not Init(PICTURE).inpaints
    assert Init(PICTURE, mask=MASK).inpaints
    assert Init(PICTURE, outpaint=Margins(left=8)).inpaints


@pytest.mark.parametrize(
    ("masking", "margins", "masked"),
    [
        (Masking(), None, False),
        (Masking(invert=True, grow=-4, blur=4.0, soft=True, only_masked=True, padding=0), None, True),
        (PART, Margins(left=8), False),
        (Masking(), Margins(), True),
        (Masking(grow=MAX_LENGTH), Margins(MAX_LENGTH), True),
    ],
)
def test_what_makes_sense_passes(masking, margins, masked):
    check(masking, margins, (30, 20), masked=masked)


@pytest.mark.parametrize(
    ("masking", "margins", "masked", "param"),
    [
        (Masking(grow=1), None, False, "mask"),
        (Masking(blur=float("nan")), None, True, "mask_blur"),
        (Masking(blur=float("inf")), None, True, "mask_blur"),
        (Masking(), Margins(), False, "outpaint"),
        (Masking(), Margins(top=MAX_LENGTH + 1), True, "outpaint"),
        (Masking(invert=True), Margins(top=8), False, "mask_invert"),
    ],
)
def test_what_makes_none_is_refused(masking, margins, masked, param):
    with pytest.raises(InvalidRequest) as error:
        check(masking, margins, (30, 20), masked=masked)
    assert error.value.param == param


def test_a_canvas_has_a_limit():
    with pytest.raises(TooLarge):
        check(Masking(), Margins(4096, 4096, 4096, 4096), (6000, 1), masked=False)
