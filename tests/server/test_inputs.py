"""Uploads that are kept for later requests."""

import os

import pytest

from pipelines.contract.errors import TooLarge
from server.domain.clock import SetClock
from server.storage.files import Retention
from server.storage.inputs import ID, InputFolder


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def inputs(tmp_path, clock):
    return InputFolder(tmp_path / "assets", Retention(100.0, 2500, 3), clock)


async def test_what_is_put_can_be_had_and_deleted(inputs):
    asset = await inputs.put("me", b"picture")
    assert ID.fullmatch(asset)
    assert await inputs.get("me", asset) == b"picture"
    assert await inputs.delete("me", asset)
    assert await inputs.get("me", asset) is None
    assert not await inputs.delete("me", asset)


async def test_the_same_bytes_are_kept_once(inputs, tmp_path):
    assert await inputs.put("me", b"picture") == await inputs.put("me", b"picture")
    assert len([path for path in (tmp_path / "assets").rglob("*") if path.is_file()]) == 1


async def test_nobody_sees_or_touches_what_is_another_s(inputs):
    mine, theirs = await inputs.put("me", b"picture"), await inputs.put("you", b"picture")
    assert mine != theirs
    assert await inputs.get("you", mine) is None
    assert not await inputs.delete("you", mine)
    assert await inputs.get("me", mine) == b"picture"


async def test_what_is_unused_goes_and_use_keeps_it(inputs, clock):
    used, unused = await inputs.put("me", b"used"), await inputs.put("me", b"unused")
    clock.advance(90)
    assert await inputs.get("me", used)
    clock.advance(20)
    assert await inputs.get("me", used) == b"used"
    assert await inputs.get("me", unused) is None


@pytest.mark.parametrize("size", [1000, 10])
async def test_what_is_too_much_goes_in_the_order_of_use(inputs, clock, size):
    # Three of a thousand bytes are too many bytes, four of ten are too many files.
    assets = []
    for index in range(2 + (size == 10)):
        assets.append(await inputs.put("me", bytes([index]) * size))
        clock.advance(1)
    theirs = await inputs.put("you", b"x" * 2000)
    assert await inputs.get("me", assets[0])
    clock.advance(1)
    last = await inputs.put("me", b"x" * size)
    found = [await inputs.get("me", asset) is not None for asset in (*assets, last)]
    assert found == [True, False, *([True] * len(assets[2:])), True]
    assert await inputs.get("you", theirs)


async def test_one_file_may_be_too_much(inputs):
    with pytest.raises(TooLarge, match="3000 bytes; uploads of one caller may have 2500"):
        await inputs.put("me", b"x" * 3000)


@pytest.mark.parametrize("asset", ["", "asset_../../secret", "asset_" + "g" * 32, "asset_" + "0" * 32 + "\n", "/etc/passwd"])
async def test_foreign_ids_never_become_paths(inputs, tmp_path, asset):
    (tmp_path / "secret").write_bytes(b"secret")
    assert await inputs.get("me", asset) is None
    assert not await inputs.delete("me", asset)


async def test_other_files_are_left_alone(inputs, tmp_path, clock):
    await inputs.put("me", b"a")
    folder = next((tmp_path / "assets").iterdir())
    (folder / "notes.txt").write_text("mine")
    os.utime(folder / "notes.txt", (0, 0))
    clock.advance(1000)
    await inputs.put("me", b"b")
    assert (folder / "notes.txt").is_file()
