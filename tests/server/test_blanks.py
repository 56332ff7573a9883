"""Rows that are there before their files are known: nobody waits for one, equal bytes stay one file, and none is left behind."""

import asyncio

import pytest
from sqlalchemy import func, select

from server.db.assets import SqlAssets
from server.db.database import Database, beside
from server.db.migrating import migrate
from server.db.tables import BLOBS
from server.domain.asset import Format
from server.domain.clock import SetClock
from server.domain.failures import StorageFull
from server.domain.stored import New
from server.storage.blanks import KINDS, MOST_AT_HAND, SECONDS, Blanks
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.places import place
from server.storage.write_behind import WriteBehind
from server.telemetry.logs import silent
from tests.doubles.stores import stored_in

HOUR = 3600.0


class Counted(SqlAssets):
    """Rows that count who waited for one."""

    __slots__ = ("begun", "full", "reserved")

    def __init__(self, database):
        super().__init__(database)
        self.begun, self.full, self.reserved = 0, False, asyncio.Event()

    async def begin(self, blob, stored):
        self.begun += 1
        return await super().begin(blob, stored)

    async def reserve(self, blobs):
        if self.full:
            msg = "There is no room left in the database."
            raise StorageFull(msg)
        await super().reserve(blobs)
        self.reserved.set()


class Shelf:
    """Results in a folder, and the server that keeps them, which may be another one later."""

    def __init__(self, folder, database):
        self.folder, self.database, self.clock = folder / "results", database, SetClock(1_800_000_000.0)
        self.begin_anew()

    def begin_anew(self):
        """As after a restart."""
        self.rows = Counted(self.database)
        self.behind = WriteBehind(self.rows, self.clock, silent())
        self.store = stored_in(self.folder, self.behind, self.clock, seconds=24 * HOUR)
        bucket = Bucket(place(None, self.folder), silent())
        self.collector = Collector(self.behind, bucket, self.clock, silent(), budget=1 << 30)

    async def put(self, data, *, tenant="t", form=Format.PNG, awaited=True):
        return await self.store.put(data, New(form, 1, 1, 1, tenant, "job", awaited=awaited))

    async def warm(self, **of):
        """Put something, and have rows at hand for more of the kind."""
        await self.put(b"the first", **of)
        await self.behind.settle()
        await self.behind.fill()
        self.rows.begun = 0

    def files(self):
        return sorted(file.read_bytes() for file in self.folder.rglob("*") if file.is_file())

    async def states(self):
        async with self.database.reading() as connection:
            return sorted((await connection.execute(select(BLOBS.c.state))).scalars())


@pytest.fixture
async def shelf(tmp_path):
    database = Database(beside(tmp_path))
    await migrate(database)
    shelf = Shelf(tmp_path, database)
    yield shelf
    async with shelf.behind.running():
        pass
    assert "writing" not in await shelf.states()
    await database.close()


async def test_nobody_waits_for_a_row_while_there_are_some_at_hand(shelf):
    for number in range(5):
        await shelf.put(f"before {number}".encode())
    await shelf.warm()  # twice the six that were asked for are there
    made = [await shelf.put(f"{index}".encode()) for index in range(12)]
    assert shelf.rows.begun == 0
    assert len(shelf.files()) == 5 + 1 + 12
    await shelf.put(b"one more than there were")
    assert shelf.rows.begun == 1
    await shelf.behind.settle()
    await shelf.behind.fill()
    assert (await shelf.states()).count("writing") == MOST_AT_HAND
    for index, each in enumerate(made):
        stored = await SqlAssets(shelf.database).get(each.name)
        assert (stored.asset.size, await shelf.store.get(each.name)) == (len(f"{index}"), f"{index}".encode())
    async with shelf.database.reading() as connection:
        held = await connection.execute(select(func.sum(BLOBS.c.bytes)))
    assert held.scalar_one() == sum(len(data) for data in shelf.files())
    await shelf.put(b"the next")
    assert shelf.rows.begun == 1


async def test_some_are_at_hand_a_moment_after_the_first(shelf):
    await shelf.put(b"the first")
    await shelf.rows.reserved.wait()
    await shelf.put(b"the second")
    assert shelf.rows.begun == 1


@pytest.mark.parametrize("of", [{"tenant": "other"}, {"form": Format.WEBP}, {"awaited": False}])
async def test_they_are_for_one_tenant_and_format_and_for_whom_somebody_waits(shelf, of):
    await shelf.warm()
    await shelf.put(b"something else", **of)
    assert shelf.rows.begun == 1


async def test_what_came_a_moment_ago_is_not_written_again(shelf):
    await shelf.warm()
    first, second = await shelf.put(b"bytes"), await shelf.put(b"bytes")
    assert (first.path, shelf.rows.begun) == (second.path, 1)
    assert shelf.files() == [b"bytes", b"the first"]


async def test_what_came_before_a_restart_is_one_file_in_the_end(shelf):
    before = await shelf.put(b"bytes")
    await shelf.behind.settle()
    shelf.begin_anew()
    await shelf.warm()
    again = await shelf.put(b"bytes")
    assert shelf.files() == [b"bytes", b"bytes", b"the first"]
    assert await shelf.store.get(again.name) == b"bytes"
    await shelf.behind.settle()
    await shelf.collector.collect()
    assert shelf.files() == [b"bytes", b"the first"]
    for name in (before.name, again.name):
        assert await shelf.store.get(name) == b"bytes"
    assert await shelf.store.delete("t", [before.name]) == 1
    assert await shelf.store.get(again.name) == b"bytes"


async def test_a_file_whose_server_died_is_found_by_the_row_that_was_there(shelf):
    await shelf.warm()
    await shelf.put(b"the last")
    shelf.behind._waiting.clear()  # what a killed process knew
    shelf.behind._contents.clear()
    shelf.begin_anew()
    assert shelf.files() == [b"the first", b"the last"]
    shelf.clock.advance(HOUR + 1)
    await shelf.collector.collect()
    assert (shelf.files(), await shelf.states()) == ([b"the first"], ["ready"])


async def test_old_ones_are_not_used_and_go(shelf):
    await shelf.warm()
    shelf.clock.advance(SECONDS)
    await shelf.put(b"later")
    assert shelf.rows.begun == 1
    await shelf.behind.settle()
    assert (await shelf.states()).count("writing") == 2
    await shelf.behind.fill()
    assert (await shelf.states()).count("writing") == 2
    await shelf.put(b"later still")
    assert shelf.rows.begun == 1
    shelf.clock.advance(HOUR)
    await shelf.collector.collect()
    assert shelf.files() == [b"later", b"later still", b"the first"]


async def test_without_room_for_them_each_waits_for_his_own(shelf):
    shelf.rows.full = True
    await shelf.put(b"a")
    await shelf.behind.settle()
    with pytest.raises(StorageFull):
        await shelf.behind.fill()
    await shelf.put(b"b")
    assert (shelf.rows.begun, shelf.files()) == (2, [b"a", b"b"])


async def test_a_file_that_cannot_be_written_gives_its_row_up(shelf):
    await shelf.warm()
    bucket = shelf.store._bucket

    class Full(Bucket):
        async def put(self, _path, _data, **_facts):
            msg = "There is no room left."
            raise StorageFull(msg)

    shelf.store._bucket = Full(place(None, shelf.folder), silent())
    with pytest.raises(StorageFull):
        await shelf.put(b"too much")
    shelf.store._bucket = bucket
    assert (await shelf.states()).count("doomed") == 1
    await shelf.collector.collect()
    assert (await shelf.states()).count("doomed") == 0


async def test_only_so_many_kinds_have_some_at_hand():
    class Rows:
        reserved, withdrawn = 0, 0

        async def reserve(self, blobs):
            self.reserved += len(blobs)

        async def withdraw(self, blobs):
            self.withdrawn += len(blobs)

    rows = Rows()
    blanks = Blanks(rows, SetClock(0.0))
    for number in range(KINDS + 3):
        assert blanks.take(f"{number}", "d", Format.PNG) is None
    await blanks.fill()
    assert (rows.reserved, rows.withdrawn) == (2 * KINDS, 0)
    assert blanks.take("2", "e", Format.PNG) is None
    assert blanks.take("3", "e", Format.PNG) is not None
    await blanks.fill()
    # Two for a kind that had none any more, one for the other; and the kind that nobody has asked for longest has none now.
    assert (rows.reserved, rows.withdrawn) == (2 * KINDS + 2 + 1, 2)
    await blanks.clear()
    assert rows.withdrawn == rows.reserved - 1, "all but the one that was taken"
