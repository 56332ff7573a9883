"""Rows that are written a moment later: known at once, lost with nobody's answer, and many of them in one transaction."""

import asyncio

import pytest

from server.db.assets import SqlAssets
from server.db.database import Database, beside
from server.db.migrating import migrate
from server.domain.asset import Format
from server.domain.clock import SetClock
from server.domain.failures import StorageFailure, StorageFull
from server.domain.stored import New
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.places import place
from server.storage.write_behind import MOST, WriteBehind
from server.telemetry.logs import silent
from tests.doubles.stores import stored_in


class Gate(SqlAssets):
    """Rows whose database takes nothing while it is shut."""

    __slots__ = ("batches", "ended", "full", "full_after", "wrote")

    def __init__(self, database):
        super().__init__(database)
        self.batches, self.ended, self.full, self.full_after = [], [], False, None
        self.wrote = asyncio.Event()

    async def finish_all(self, whole):
        self._check()
        self.batches.append(len(whole))
        try:
            return await super().finish_all(whole)
        finally:
            self.wrote.set()

    async def finish(self, blob, stored, *, soon=False):
        self.full = self.full or len(self.ended) == self.full_after
        self._check()
        self.ended.append(stored.asset.name)
        return await super().finish(blob, stored, soon=soon)

    def _check(self):
        if self.full:
            msg = "There is no room left in the database."
            raise StorageFull(msg)


class Shelf:
    def __init__(self, folder, database):
        self.folder, self.database, self.clock = folder / "results", database, SetClock(1_800_000_000.0)
        self.rows = Gate(database)
        self.behind = WriteBehind(self.rows, self.clock, silent())
        self.store = stored_in(self.folder, self.behind, self.clock)

    async def put(self, data, *, awaited=True):
        return await self.store.put(data, New(Format.PNG, 1, 1, 1, "t", "job", awaited=awaited))

    async def written(self, asset):
        """What another process would find."""
        return await SqlAssets(self.database).get(asset.name)


@pytest.fixture
async def shelf(tmp_path):
    database = Database(beside(tmp_path))
    await migrate(database)
    shelf = Shelf(tmp_path, database)
    yield shelf
    shelf.rows.full = False
    async with shelf.behind.running():
        pass
    await database.close()


async def test_what_is_awaited_is_known_at_once_and_written_together(shelf):
    assets = [await shelf.put(b"%d" % number) for number in range(5)]
    assert [await shelf.written(asset) for asset in assets] == [None] * 5
    assert [await shelf.store.get(asset.name) for asset in assets] == [b"%d" % number for number in range(5)]
    known = [await shelf.store.facts(asset.name) for asset in assets]
    await shelf.behind.settle()
    assert [await shelf.written(asset) for asset in assets] == known
    assert shelf.rows.batches == [5]


async def test_without_being_asked_it_is_written_soon(shelf):
    asset = await shelf.put(b"data")
    async with asyncio.timeout(30):
        await shelf.rows.wrote.wait()
    assert shelf.rows.batches == [1]
    assert (await shelf.store.facts(asset.name)).asset == asset


async def test_what_a_job_of_the_queue_has_made_is_written_first(shelf):
    assert await shelf.written(await shelf.put(b"data", awaited=False)) is not None


async def test_a_link_leads_somewhere_from_the_moment_it_is_given_out(shelf):
    asset = await shelf.put(b"data")
    assert await shelf.store.signed(asset, 60) is None
    assert await shelf.written(asset) is not None


async def test_equal_bytes_are_one_file_though_the_first_are_not_written(shelf):
    first, second = await shelf.put(b"data"), await shelf.put(b"data")
    assert first.path == second.path
    both = await asyncio.gather(shelf.put(b"other"), shelf.put(b"other"))
    await shelf.behind.settle()
    collector = Collector(shelf.behind, Bucket(place(None, shelf.folder), silent()), shelf.clock, silent(), budget=1 << 30)
    await collector.collect()
    assert [await shelf.store.get(asset.name) for asset in (first, second, *both)] == [b"data", b"data", b"other", b"other"]
    assert len([path for path in shelf.folder.rglob("*") if path.is_file()]) == 2


async def test_what_waits_can_be_copied_and_let_go_of(shelf):
    asset, other, third = await shelf.put(b"data"), await shelf.put(b"other"), await shelf.put(b"third")
    copy = await shelf.store.again(asset, "t", "another")
    assert await shelf.store.get(copy.name) == b"data"
    assert await shelf.store.delete("t", [other.name]) == 1
    assert await shelf.store.get(other.name) is None
    assert await shelf.store.discard("t", "job") == 2
    assert [await shelf.store.get(each.name) for each in (asset, third, copy)] == [None, None, b"data"]
    assert (await shelf.behind.holdings())[0].assets == 1


async def test_a_killed_server_leaves_a_file_that_is_collected(shelf):
    asset = await shelf.put(b"data")
    rows = SqlAssets(shelf.database)  # of the next one
    collector = Collector(rows, Bucket(place(None, shelf.folder), silent()), shelf.clock, silent(), budget=1 << 30)
    assert (await collector.strays(delete=True)).files == 0
    shelf.clock.advance(3601)
    assert (await collector.collect()).files == 1
    assert not (shelf.folder / asset.path).exists()
    await shelf.behind.settle()  # it lives after all, and finds that its row was given up
    assert await shelf.store.get(asset.name) is None


async def test_while_the_database_is_full_pictures_are_kept_and_then_refused(shelf):
    shelf.rows.full = True
    assets = [await shelf.put(b"%d" % number) for number in range(MOST)]
    with pytest.raises(StorageFull):
        await shelf.put(b"one too many")
    with pytest.raises(StorageFailure):
        await shelf.behind.settle()
    assert await shelf.store.get(assets[-1].name) == b"%d" % (MOST - 1)
    shelf.rows.full = False
    await shelf.behind.settle()
    assert sum(shelf.rows.batches) == MOST
    assert None not in [await shelf.written(asset) for asset in assets]


async def test_where_each_is_seen_to_alone_what_is_written_is_not_written_again(shelf):
    assets = [await shelf.put(b"%d" % number) for number in range(3)]
    other = stored_in(shelf.folder, SqlAssets(shelf.database), shelf.clock)
    met = await other.put(b"0", New(Format.PNG, 1, 1, 1, "t", "job"))
    shelf.rows.full_after = 2
    with pytest.raises(StorageFull):
        await shelf.behind.settle()
    assert await shelf.written(assets[2]) is None
    shelf.rows.full, shelf.rows.full_after = False, None
    await shelf.behind.settle()
    assert (await shelf.written(assets[0])).asset.path == met.path
    assert [await shelf.store.get(asset.name) for asset in assets] == [b"0", b"1", b"2"]
    # The last one was alone then, and needed no second look.
    assert shelf.rows.ended == [assets[0].name, assets[1].name]


async def test_who_leaves_while_it_is_written_leaves_no_doubt(shelf):
    for turns in range(12):
        asset = await shelf.put(b"%d" % turns)
        task = asyncio.create_task(shelf.behind.settle())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await shelf.behind.settle()
        assert (await shelf.written(asset)).asset == asset


async def test_at_the_end_all_is_written_and_nothing_waits_any_more(shelf):
    async with shelf.behind.running():
        asset = await shelf.put(b"data")
    assert await shelf.written(asset) is not None
    assert await shelf.written(await shelf.put(b"late")) is not None
