"""Uploads that mean no good: bombs of several kinds, damaged files, files that are two things at once."""

import io
import struct
import warnings
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar.testing import TestClient
from PIL import Image

from pipelines.contract.errors import BadPicture, TooLarge
from server.api.structure import MOST_PADDING, MOST_PARTS, MOST_SCANS, check_structure
from server.api.uploads import open_image
from server.app import build
from server.settings import Settings

LIMIT = 1_000_000


def file(form, size=(8, 8), **options):
    target = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("P" if form == "GIF" else "RGB").save(target, form, **options)
    return target.getvalue()


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(chunks):
    """A PNG with ``chunks`` behind its header."""
    plain = file("PNG")
    return plain[:33] + chunks + plain[33:]


def claims(width, height, form):
    """A file of a few bytes that claims a size."""
    if form == "PNG":
        plain = file("PNG")
        return plain[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + plain[33:]
    if form == "GIF":
        return (
            b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0,\0\0\0\0" + struct.pack("<HH", width, height) + b"\0\x02\0;"
        )
    if form == "JPEG":
        plain = bytearray(file("JPEG"))
        start = plain.index(b"\xff\xc0") + 5
        plain[start : start + 4] = struct.pack(">HH", height, width)
        return bytes(plain)
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = b"\0" * 6 + b"\7\0\0\7\0\0d\0\0\0" + file("WEBP", lossless=True)[12:]
    body = b"WEBPVP8X\x0a\0\0\0\x02\0\0\0" + sides + b"ANIM\6\0\0\0" + b"\0" * 6 + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def scans(count, side=64):
    """A progressive JPEG of one component with ``count`` scans that say nothing (ITU T.81, G.1.2.2)."""
    blocks = (side // 8) ** 2

    def segment(kind, data):
        return b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data

    codes = bytes([1] + [0] * 15)
    start = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    tables = segment(0xC4, b"\0" + codes + b"\0") + segment(0xC4, b"\x10" + codes + b"\xe0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8)
    nothing = segment(0xDA, b"\1\1\0\1\x3f\0") + b"\x7f\xff\0"
    return start + tables + first + nothing * (count - 1) + b"\xff\xd9"


@pytest.mark.parametrize("form", ["PNG", "GIF", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1001, 1000), (16_383, 16_383)])
def test_a_size_that_is_only_claimed_is_refused_before_memory_is_taken(form, size):
    data = claims(*size, form)
    assert len(data) < 1000
    with pytest.raises(TooLarge):
        open_image(data, "image", LIMIT)


@pytest.mark.parametrize(
    "chunks",
    [
        chunk(b"zTXt", b"x\0\0" + zlib.compress(b"A" * (64 << 20), 9)),
        chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(b"A" * (64 << 20), 9)),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(b"A" * (64 << 20), 9)),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(b"A" * 1_000_000, 9)) * 100,
    ],
)
def test_texts_and_profiles_that_unpack_to_much(chunks):
    with pytest.raises(BadPicture):
        open_image(with_chunks(chunks), "image", LIMIT)


def test_pixels_behind_the_last_are_not_unpacked():
    header = file("PNG")[:33]
    bomb = header + chunk(b"IDAT", zlib.compress(b"\0" * (64 << 20), 9)) + chunk(b"IEND")
    assert open_image(bomb, "image", LIMIT).size == (8, 8)


def test_scans_are_counted():
    assert open_image(scans(MOST_SCANS), "image", LIMIT).size == (64, 64)
    with pytest.raises(BadPicture, match="more than 100 scans"):
        open_image(scans(MOST_SCANS + 1), "image", LIMIT)


def test_scans_of_a_picture_within_the_picture_do_not_count():
    """A thumbnail in a segment, as cameras write it."""
    inner = scans(MOST_SCANS)
    plain = file("JPEG", progressive=True)
    whole = plain[:2] + (b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner) * 3 + plain[2:]
    assert open_image(whole, "image", LIMIT).size == (8, 8)


def many(form, part, count):
    plain = file(form)
    if form == "PNG":
        return with_chunks(part * count)
    place = 2 if form == "JPEG" else plain.index(b",")
    return plain[:place] + part * count + plain[place:]


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ("JPEG", b"\xff\xfe\0\2"),
        ("JPEG", b"\xff\xef\0\2"),
        ("JPEG", b"\xff\xe1\0\x08Exif\0\0"),
        ("PNG", chunk(b"prVt")),
        ("PNG", chunk(b"tIME", b"\0" * 7)),
        ("GIF", b"!\xfe\1a\0"),
        ("GIF", b"\0"),
    ],
)
def test_parts_are_counted(form, part):
    assert open_image(many(form, part, 50), "image", LIMIT).size == (8, 8)
    with pytest.raises(BadPicture, match=r"more than 100000 (segments|chunks|blocks)"):
        check_structure(many(form, part, MOST_PARTS + 1), "image")


def test_one_comment_of_many_blocks():
    plain = file("GIF")
    place = plain.index(b",")
    with pytest.raises(BadPicture, match="more than 100000 blocks"):
        check_structure(plain[:place] + b"!\xfe" + b"\1a" * MOST_PARTS + b"\0" + plain[place:], "image")


def test_padding_is_bounded():
    plain = file("JPEG")
    assert open_image(plain[:2] + b"\xff" * MOST_PADDING + plain[2:], "image", LIMIT).size == (8, 8)
    with pytest.raises(BadPicture, match="padding"):
        open_image(plain[:2] + b"\xff" * (10 << 20) + plain[2:], "image", LIMIT)


def test_broken_exif_fills_no_log():
    tags = b"".join(struct.pack("<HHII", index + 1, 2, 60_000, 8) for index in range(2000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2000) + tags
    plain = file("JPEG")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        open_image(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:], "image", LIMIT)
    assert heard == []


CORPUS = [
    *(file(form, (24, 16)) for form in ("PNG", "JPEG", "WEBP", "GIF")),
    file("JPEG", (24, 16), progressive=True),
    file("WEBP", (24, 16), lossless=True, exif=Image.Exif()),
    claims(300, 200, "WEBP"),
    scans(4),
    with_chunks(chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0") + chunk(b"tEXt", b"a\0b")),
]


@given(data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_whatever_is_sent_is_a_picture_or_refused(data):
    broken = bytearray(data.draw(st.sampled_from(CORPUS)))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, max(0, len(broken) - 1)))
        change = data.draw(st.sampled_from(["set", "cut", "repeat"]))
        if change == "set":
            broken[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
        elif change == "cut":
            del broken[place : place + data.draw(st.integers(1, 40))]
        else:
            broken[place:place] = broken[place : place + 40] * data.draw(st.integers(1, 9))
    try:
        found = open_image(bytes(broken), "image", LIMIT)
    except (BadPicture, TooLarge):
        return
    assert found.width * found.height <= LIMIT
    assert found.mode in ("RGB", "RGBA")


SCRIPT = b"<html><script>alert(1)</script></html>"
ARCHIVE = b"PK\3\4" + b"\0" * 26 + b"PK\5\6" + b"\0" * 18


@pytest.mark.parametrize(
    "data",
    [
        file("PNG") + SCRIPT,
        file("PNG") + ARCHIVE,
        file("GIF") + SCRIPT,
        with_chunks(chunk(b"tEXt", b"a\0" + SCRIPT)),
        file("JPEG", comment=SCRIPT),
        file("WEBP", exif=b"Exif\0\0" + SCRIPT),
        b"GIF89a" + b"/*" + file("GIF")[8:10] + file("GIF")[10:] + b"*/=1;" + SCRIPT,
    ],
)
def test_what_is_two_things_is_served_as_a_picture_only(tmp_path, data):
    """Kept as it came, so that its hash and its manifest hold; a browser is told not to look for anything else in it."""
    with TestClient(build(Settings(home=tmp_path, devices=("fake",)))) as client:
        kept = client.post("/api/assets", content=data)
        if kept.status_code != 201:
            assert kept.status_code == 400  # no decoder reads it
            return
        served = client.get(f"/api/assets/{kept.json()['id']}")
    assert served.content == data
    assert served.headers["content-type"].startswith("image/")
    assert served.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in served.headers["content-security-policy"]


@pytest.mark.parametrize(
    "data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0", b"II*\0\x08\0\0\0", b"8BPS\0\1", ARCHIVE]
)
def test_formats_that_are_not_meant_are_not_even_tried(data):
    with pytest.raises(BadPicture, match="no known kind"):
        open_image(data, "image", LIMIT)
