"""What was stored a moment ago is given once without reading it."""

import pytest

from server.db.database import Database, beside
from server.db.migrating import migrate
from server.domain.asset import Format
from server.domain.clock import SystemClock
from server.domain.stored import New
from server.storage.fresh import Fresh
from tests.doubles.stores import stored_in


class Shelf:
    def __init__(self, folder, database):
        self.folder = folder / "results"
        self.store = Fresh(stored_in(self.folder, database, SystemClock()), most=10)

    async def put(self, data, tenant="one", job_id="job"):
        return await self.store.put(data, New(Format.PNG, 1, 1, 1, tenant, job_id))

    def lose(self, asset):
        """Without the store's knowing: who still gets it has not read it."""
        (self.folder / asset.path).unlink()


@pytest.fixture
async def shelf(tmp_path):
    database = Database(beside(tmp_path))
    await migrate(database)
    yield Shelf(tmp_path, database)
    await database.close()


async def test_what_was_stored_is_read_from_memory_once(shelf):
    asset = await shelf.put(b"data")
    assert (shelf.folder / asset.path).read_bytes() == b"data"
    shelf.lose(asset)
    assert await shelf.store.get(asset.name) == b"data"
    assert await shelf.store.get(asset.name) is None


async def test_it_is_read_from_the_store_after_that(shelf):
    asset = await shelf.put(b"data")
    assert [await shelf.store.get(asset.name) for _ in range(3)] == [b"data"] * 3
    copy = await shelf.store.again(asset, "two", "job-2")
    assert await shelf.store.get(copy.name) == b"data"


async def test_no_more_is_held_than_there_is_room_for(shelf):
    first, second, large = [await shelf.put(data) for data in (b"1234", b"12345", b"12345678901")]
    for asset in (first, second, large):
        shelf.lose(asset)
    assert [await shelf.store.get(asset.name) for asset in (first, second, large)] == [None] * 3
    third = await shelf.put(b"123456789")
    assert await shelf.store.get(third.name) == b"123456789"
    fourth, fifth = await shelf.put(b"abcdef"), await shelf.put(b"ghijkl")
    for asset in (fourth, fifth):
        shelf.lose(asset)
    assert [await shelf.store.get(asset.name) for asset in (fourth, fifth)] == [None, b"ghijkl"]


async def test_what_is_deleted_is_gone(shelf):
    one, two = await shelf.put(b"one"), await shelf.put(b"two")
    assert await shelf.store.delete("one", [one.name]) == 1
    assert await shelf.store.discard("one", "job") == 1
    assert [await shelf.store.get(asset.name) for asset in (one, two)] == [None, None]
    assert await shelf.store.facts(one.name) is None


async def test_what_others_have_made_stays(shelf):
    kept = [await shelf.put(b"mine", job_id="other"), await shelf.put(b"hers", tenant="two")]
    await shelf.store.discard("one", "job")
    for asset in kept:
        shelf.lose(asset)
    assert [await shelf.store.get(asset.name) for asset in kept] == [b"mine", b"hers"]
