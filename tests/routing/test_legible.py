"""Whether the words are in what OCR read; and OCR itself, on words drawn by Pillow."""

from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from pipelines.contract.picture import Picture
from server.gateway.legible import distance_within, missing, normalised
from server.gateway.ocr import OcrReader

SIZE = (480, 160)


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        ("OPEN", ["WE ARE", "open"]),
        ("OPEN 24 HOURS", ["Open", "24 hours"]),
        ("Mel's Burgers", ["MEL’S BURGERS"]),
        ("Boulangerie", ["Boulangeric"]),  # one mistake in eleven
        ("Café Zoë", ["CAFE ZOE"]),
        ("营业中", ["欢迎 营业中"]),
        ("ＳＡＬＥ", ["sale 50%"]),
    ],
)
def test_there(wanted, lines):
    assert missing([wanted], lines) == ()


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [("OPEN", ["OPNE"]), ("OPEN", []), ("OPEN", ["OPE", "R"]), ("Happy Birthday", ["Hapy Birtday"]), ("营业中", ["营业"])],
)
def test_not_there(wanted, lines):
    assert missing([wanted], lines) == (wanted,)


def test_each_is_looked_for():
    assert missing(["Hers", "His", "!"], ["his"]) == ("Hers",)


@given(st.text(max_size=30), st.text(max_size=12), st.text(max_size=12))
def test_what_is_written_is_found(wanted, before, after):
    assert distance_within(wanted, before + wanted + after) == 0
    assert missing([wanted], [before, wanted, after]) == ()


@given(st.text("ABCDE", min_size=1, max_size=20), st.text("ABCDE", max_size=20))
def test_distances(wanted, text):
    assert 0 <= distance_within(wanted, text) <= len(wanted)
    assert normalised(normalised(wanted)) == normalised(wanted)


def drawn(*lines):
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        pen.text((20, 15 + 70 * row), line, "black", ImageFont.load_default(48))
    return Picture(*SIZE, "RGB", image.tobytes())


@pytest.mark.skipif(find_spec("rapidocr") is None or find_spec("onnxruntime") is None, reason="the extra `ocr` is not installed")
async def test_rendered_words_are_read():
    reader = OcrReader()
    assert reader.available
    lines = await reader.read(drawn("OPEN 24 HOURS", "Mel's Burgers"))
    assert missing(["Open 24 hours", "Mel's Burgers"], lines) == ()
    assert missing(["CLOSED"], lines) == ("CLOSED",)
    assert await reader.read(drawn()) == ()
