import io
import os

import pytest
from PIL import Image
from server.storage.blobs import NAME, FolderStore, Retention

from pipelines.contract.errors import InvalidRequest
from pipelines.contract.picture import Picture
from server.domain.asset import Delivery, Format
from server.domain.clock import SetClock
from server.storage.encode import encode, enlarged, reduced

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
    for form in (Format.JPEG, Format.WEBP):
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


def store(folder, clock, seconds=100.0, size=10_000):
    return FolderStore(folder / "outputs", Retention(seconds, size), clock)


async def test_put_and_get(tmp_path):
    kept = store(tmp_path, SetClock())
    name = await kept.put(b"data", Format.PNG)
    assert NAME.fullmatch(name)
    assert name.endswith(".png")
    assert await kept.get(name) == b"data"
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [name]  # no temporary file is left


@pytest.mark.parametrize(
    "name", ["", "../secret.png", "/etc/passwd", "a" * 32 + ".png/..", "a" * 32 + ".png\n", "." * 32 + ".png", "a" * 32 + ".gif"]
)
async def test_foreign_names_never_become_paths(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(b"secret")
    assert await store(tmp_path, SetClock()).get(name) is None


async def test_what_is_old_goes(tmp_path):
    clock = SetClock()
    kept = store(tmp_path, clock)
    old = await kept.put(b"old", Format.PNG)
    clock.advance(90)
    young = await kept.put(b"young", Format.PNG)
    clock.advance(61)
    await kept.put(b"new", Format.PNG)
    assert await kept.get(old) is None
    assert await kept.get(young) == b"young"


async def test_what_is_too_much_goes_oldest_first(tmp_path):
    clock = SetClock()
    kept = store(tmp_path, clock, size=2500)
    names = []
    for _ in range(4):
        names.append(await kept.put(b"x" * 1000, Format.PNG))
        clock.advance(1)
    assert kept.sweep() == 2
    assert [await kept.get(name) is not None for name in names] == [False, False, True, True]


async def test_a_sweep_leaves_other_files_alone(tmp_path):
    clock = SetClock()
    kept = store(tmp_path, clock)
    await kept.put(b"x", Format.PNG)
    other = tmp_path / "outputs" / "notes.txt"
    other.write_text("mine")
    os.utime(other, (0, 0))
    clock.advance(10_000)
    kept.sweep()
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["notes.txt"]
