import io
import json

import pytest
from PIL import Image

from pipelines.contract.errors import InvalidRequest
from pipelines.contract.picture import Picture
from server.domain.asset import Delivery, Format
from server.storage.encode import encode, enlarged, reduced
from server.storage.texts import JPEG_MOST

PICTURE = Picture(16, 8, "RGB", bytes(range(128)) * 3)


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("quality", [None, 0, 60, 100])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_every_format_encodes_every_mode(form, quality, mode):
    picture = Picture(16, 8, mode, bytes(128) * len(mode))
    image = Image.open(io.BytesIO(encode(picture, Delivery(form, quality))))
    assert image.size == (16, 8)
    assert image.format == form.name


def test_png_and_webp_at_100_are_exact():
    for delivery in (Delivery(Format.PNG), Delivery(Format.WEBP, 100)):
        image = Image.open(io.BytesIO(encode(PICTURE, delivery)))
        assert image.convert("RGB").tobytes() == PICTURE.data


def test_lower_quality_is_smaller():
    noise = Image.effect_noise((128, 128), 80).convert("RGB")
    picture = Picture(128, 128, "RGB", noise.tobytes())
    for form in (Format.JPEG, Format.WEBP, Format.AVIF):
        sizes = [len(encode(picture, Delivery(form, quality))) for quality in (10, 50, 90)]
        assert sizes == sorted(sizes)


def test_png_keeps_any_text():
    text = "a cat ✏️\nSteps: 3"
    assert Image.open(io.BytesIO(encode(PICTURE, Delivery(), text))).text["parameters"] == text


def test_enlarged():
    assert enlarged(PICTURE, 16, 8) is PICTURE
    assert (enlarged(PICTURE, 64, 32).width, enlarged(PICTURE, 64, 32).mode) == (64, "RGB")


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [
        (None, None, (640, 480)),
        (320, None, (320, 240)),
        (None, 120, (160, 120)),
        (640, 480, (640, 480)),
        (100, 100, (100, 100)),
        (1, None, (1, 1)),
    ],
)
def test_the_size_that_a_caller_wants(width, height, wanted):
    assert Delivery(width=width, height=height).size(640, 480) == wanted


@pytest.mark.parametrize(("width", "height"), [(641, None), (None, 481), (64, 481), (0, None), (None, -3)])
def test_a_size_to_grow_to_is_refused(width, height):
    with pytest.raises(InvalidRequest) as error:
        Delivery(width=width, height=height).size(640, 480)
    assert error.value.param == "output.size"


def test_reduced_by_a_good_filter():
    """Stripes as fine as pixels become grey, where a bad filter would leave black or white."""
    stripes = Picture(256, 256, "RGB", (b"\x00" * 3 + b"\xff" * 3) * 128 * 256)
    small = reduced(stripes, 96, 96)
    assert (small.width, small.height) == (96, 96)
    assert all(110 < level < 145 for level in small.data[3 * 96 * 40 + 60 : 3 * 96 * 40 + 200])
    assert reduced(stripes, 256, 256) is stripes


def test_another_shape_cuts_the_overhang_evenly():
    halves = Image.new("RGB", (200, 100), "red")
    halves.paste("blue", (100, 0, 200, 100))
    small = reduced(Picture(200, 100, "RGB", halves.tobytes()), 50, 50)
    image = Image.frombytes("RGB", (50, 50), small.data)
    assert image.getpixel((5, 25)) == (255, 0, 0)
    assert image.getpixel((44, 25)) == (0, 0, 255)


def comment(data):
    """EXIF's UserComment as AUTOMATIC1111 reads it, and the ImageDescription."""
    exif = Image.open(io.BytesIO(data)).getexif()
    raw = exif.get_ifd(0x8769).get(0x9286)
    if raw is not None:
        assert raw[:8] == b"UNICODE\0"
        raw = raw[8:].decode("utf-16-be")
    return raw, exif.get(0x010E)


@pytest.mark.parametrize("form", [Format.JPEG, Format.WEBP, Format.AVIF])
@pytest.mark.parametrize("quality", [None, 100])
def test_other_files_tell_it_in_exif(form, quality):
    text, request = "a cat ✏️\nSteps: 3", json.dumps({"prompt": "a cat ✏️"})
    assert comment(encode(PICTURE, Delivery(form, quality), text, request)) == (text, request)
    assert comment(encode(PICTURE, Delivery(form, quality), text)) == (text, None)
    assert comment(encode(PICTURE, Delivery(form, quality), None, request)) == (None, request)
    assert comment(encode(PICTURE, Delivery(form, quality))) == (None, None)


def test_png_tells_it_in_chunks():
    assert Image.open(io.BytesIO(encode(PICTURE, Delivery(), "a", "{}"))).text == {"parameters": "a", "aquatint": "{}"}
    assert Image.open(io.BytesIO(encode(PICTURE, Delivery()))).text == {}


def test_what_does_not_fit_into_a_jpeg_is_left_out():
    long = "x" * (JPEG_MOST // 4)
    assert comment(encode(PICTURE, Delivery(Format.JPEG), long, "y" * JPEG_MOST)) == (long, None)
    assert comment(encode(PICTURE, Delivery(Format.JPEG), "x" * JPEG_MOST, "{}")) == (None, None)
    assert comment(encode(PICTURE, Delivery(Format.WEBP), "x" * JPEG_MOST, "{}"))[0] == "x" * JPEG_MOST
