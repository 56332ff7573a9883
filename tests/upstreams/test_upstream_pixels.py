"""Pictures on their way to an upstream and back."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.contract.inpainting import Margins, Masking
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import ImageRequest, Init, Sampling
from server.domain.failures import UpstreamAmbiguous
from server.providers import pixels

SIDES = st.integers(8, 96)


def request(width, height, **fields):
    return ImageRequest("r", "m", "x", width, height, (1,), Sampling("euler", 4, 1.0), **fields)


def flat(width, height, colour):
    return Picture(width, height, "RGB", bytes(colour) * (width * height))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(list(Resize)))
def test_framing_gives_the_size_and_invents_no_colour(width, height, across, down, resize):
    found = pixels.framed(Image.new("RGB", (width, height), (9, 90, 200)), (across, down), resize)
    assert (found.size, found.getcolors()) == ((across, down), [(across * down, (9, 90, 200))])


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES)
def test_what_is_shown_in_a_window_is_cut_out_again(width, height):
    for size in ((128, 128), (192, 128), (128, 192)):
        frame = pixels.window(size, (width, height))
        shown = frame.shown(Image.new("RGB", (width, height), (9, 90, 200)))
        assert shown.size == size
        box = frame.box
        assert abs((box[2] - box[0]) * height - (box[3] - box[1]) * width) <= max(width, height)
        assert frame.cut(shown.resize((size[0] * 2, size[1] * 2))).size == ((box[2] - box[0]) * 2, (box[3] - box[1]) * 2)


def test_a_mask_may_be_turned_round_and_margins_are_repainted():
    mask = Picture(16, 8, "L", (b"\xff" * 8 + b"\0" * 8) * 8)
    init = Init(flat(16, 8, (1, 2, 3)), mask=mask, masking=Masking(invert=True))
    assert pixels.canvas(request(16, 8, init=init), init).mask.tobytes() == (b"\0" * 8 + b"\xff" * 8) * 8
    grown = Init(flat(16, 8, (1, 2, 3)), outpaint=Margins(right=16))
    shown = pixels.canvas(request(32, 8, init=grown), grown)
    assert shown.mask.tobytes() == (b"\0" * 16 + b"\xff" * 16) * 8
    assert shown.picture.size == (32, 8)
    clear = pixels.seen_through(shown.mask)
    assert clear.getchannel("A").tobytes() == (b"\xff" * 16 + b"\0" * 16) * 8


def test_outside_of_a_mask_the_input_comes_back_to_the_bit():
    mask = Picture(16, 8, "L", (b"\xff" * 8 + b"\0" * 8) * 8)
    init = Init(flat(16, 8, (1, 2, 3)), mask=mask, keep_unmasked=True)
    asked = request(16, 8, init=init)
    done = pixels.finished(flat(64, 32, (200, 0, 0)), asked, pixels.canvas(asked, init))
    assert done.data == (bytes((200, 0, 0)) * 8 + bytes((1, 2, 3)) * 8) * 8


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_are_trusted(data):
    with pytest.raises(UpstreamAmbiguous):
        pixels.decoded(data)
    target = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(target, "PNG")
    with pytest.raises(UpstreamAmbiguous):
        pixels.decoded(target.getvalue()[:60] + data)
