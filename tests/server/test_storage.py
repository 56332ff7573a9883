import io
import os

import pytest
from PIL import Image

from pipelines.contract.picture import Picture
from server.domain.asset import Delivery, Format
from server.domain.clock import SetClock
from server.storage.blobs import NAME, FolderStore, Retention
from server.storage.encode import encode, enlarged

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
