"""Uploads in a bucket, by their rows and as a store: whatever is put, used, deleted, lost or cut off, on both databases."""

import asyncio
import random

import pytest
from msgspec.structs import replace

from pipelines.contract.errors import TooLarge
from server.db.assets import SqlAssets
from server.db.database import Database
from server.db.uploads import SqlUploads
from server.domain.clock import SetClock
from server.domain.failures import StorageFailure
from server.domain.upload import Upload
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.files import Retention
from server.storage.inputs import ID, InputFolder
from server.storage.places import place
from server.storage.shared_inputs import PATH, SharedInputs, UploadShelf
from server.storage.sweeping import Collected
from server.telemetry.logs import silent
from tests.doubles.stores import Quota

KEPT = Retention(1000.0, 2500, 3)


class Server:
    """One of several over the same database and place."""

    def __init__(self, folder, database, clock, *, where=None):
        self.folder, self.rows = folder, SqlUploads(database)
        self.bucket = Bucket(where or place(None, folder), silent())
        self.looked = 0
        self.inputs = SharedInputs(self.rows, self.bucket, KEPT, clock, deleted=self.look)
        shelf = UploadShelf(self.rows, self.bucket, clock, seconds=KEPT.seconds)
        self.collector = Collector(SqlAssets(database), self.bucket, clock, silent(), budget=1 << 30, shelves=[shelf])

    def look(self):
        self.looked += 1

    def files(self):
        return sorted(file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file())


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def server(tmp_path, database, clock):
    server = Server(tmp_path / "place", database, clock)
    yield server
    server.bucket.close()


@pytest.fixture
async def other(tmp_path, address, database, clock):
    """Another server beside ``server``."""
    second = Database(address)
    other = Server(tmp_path / "place", second, clock)
    yield other
    other.bucket.close()
    await second.close()


def upload(path, *, tenant="me", id_="asset_1", used=100.0, size=10):
    return Upload(path, tenant, id_, size, used, used)


async def put(rows, new):
    assert await rows.begin(new) is None
    assert await rows.finish(new) == new.path


async def test_rows_an_upload_is_there_once_its_file_is(server):
    first = upload("a")
    assert await server.rows.begin(first) is None
    assert await server.rows.get("me", "asset_1") is None
    assert await server.rows.finish(first) == "a"
    assert await server.rows.get("me", "asset_1") == first
    assert await server.rows.get("you", "asset_1") is None
    assert await server.rows.begin(upload("b", used=200.0)) == "a"
    assert await server.rows.get("me", "asset_1") == replace(first, used=200.0)
    assert await server.rows.known(["a", "b"]) == {"a"}


async def test_rows_of_two_that_are_written_at_once_the_first_that_is_whole_stays(server, other):
    assert [await each.rows.begin(upload(path)) for each, path in ((server, "a"), (other, "b"))] == [None, None]
    assert await other.rows.finish(upload("b")) == "b"
    assert await server.rows.finish(upload("a")) == "b"
    assert [each.path for each in await server.rows.doomed(9)] == ["a"]


async def test_rows_many_that_finish_at_once_agree(server, other):
    new = [upload(f"p{index}") for index in range(10)]
    assert {await server.rows.begin(each) for each in new} == {None}
    led = await asyncio.gather(*((server, other)[index % 2].rows.finish(each) for index, each in enumerate(new)))
    assert len(set(led)) == 1
    assert {each.path for each in await server.rows.doomed(99)} == {each.path for each in new} - {led[0]}


async def test_rows_what_was_given_up_leads_nowhere(server):
    assert await server.rows.begin(upload("a")) is None
    assert await server.rows.expire(0.0, 100.0, 9) == 0
    assert await server.rows.expire(0.0, 101.0, 9) == 1
    assert await server.rows.finish(upload("a")) is None
    await server.rows.forget(["a"])
    assert await server.rows.finish(upload("a")) is None
    assert await server.rows.known(["a"]) == frozenset()


async def test_rows_a_use_is_written_if_the_last_is_old_enough(server):
    await put(server.rows, upload("a"))
    await server.rows.touch("a", 150.0, 100.0)
    assert (await server.rows.get("me", "asset_1")).used == 100.0
    await server.rows.touch("a", 150.0, 100.5)
    assert (await server.rows.get("me", "asset_1")).used == 150.0
    await server.rows.doom("a")
    assert await server.rows.get("me", "asset_1") is None


async def test_rows_go_by_use_within_bounds_of_each_tenant(server):
    for number in range(4):
        await put(server.rows, upload(f"a{number}", id_=f"asset_{number}", used=100.0 + number))
    await put(server.rows, upload("b", tenant="you", used=1.0))
    assert await server.rows.trim("me", 40, 4, 9) == 0
    assert await server.rows.trim("me", 39, 4, 9) == 1
    assert await server.rows.trim("me", 9, 9, 1) == 1  # bounded
    assert await server.rows.trim("me", 99, 1, 9) == 1
    assert [each.path for each in await server.rows.doomed(9)] == ["a0", "a1", "a2"]
    assert [each.path for each in await server.rows.doomed(9, "a0")] == ["a1", "a2"]
    assert await server.rows.expire(1.0, 0.0, 9) == 0
    assert await server.rows.expire(103.5, 0.0, 1) == 1
    assert [each.path for each in await server.rows.doomed(9, "a2")] == ["b"]
    await server.rows.forget(["a0", "a3", "b"])
    assert await server.rows.known(["a0", "a1", "a3", "b"]) == {"a1", "a3"}


async def test_rows_that_many_let_go_of_at_once_go_once(server, other):
    for number in range(30):
        await put(server.rows, upload(f"a{number:02}", id_=f"asset_{number}", used=100.0 + number))
    both = [each.rows.trim("me", 100, 99, 99) for each in (server, other, server, other)]
    expiring = [each.rows.expire(110.0, 0.0, 99) for each in (server, other)]
    assert sum(await asyncio.gather(*both, *expiring)) == 20
    assert [each.path for each in await server.rows.doomed(99)] == [f"a{number:02}" for number in range(20)]


async def test_an_upload_is_known_to_every_server_under_the_id_that_a_folder_gives_it(server, other, clock, tmp_path):
    asset = await server.inputs.put("me", b"picture")
    assert ID.fullmatch(asset)
    assert asset == await InputFolder(tmp_path / "folder", KEPT, clock).put("me", b"picture")
    assert await other.inputs.get("me", asset) == b"picture"
    assert await other.inputs.put("me", b"picture") == asset
    (file,) = server.files()
    assert PATH.fullmatch(file)
    assert f"/{asset}/" in file
    assert await other.inputs.delete("me", asset)
    assert await server.inputs.get("me", asset) is None
    assert not await server.inputs.delete("me", asset)
    assert (other.looked, server.files()) == (1, [file])
    assert await server.collector.collect() == Collected(files=1, bytes=7)
    assert server.files() == []


async def test_nobody_sees_or_touches_what_is_another_s(server):
    mine, theirs = await server.inputs.put("me", b"picture"), await server.inputs.put("you", b"picture")
    assert mine != theirs
    assert await server.inputs.get("you", mine) is None
    assert not await server.inputs.delete("you", mine)
    assert await server.inputs.get("me", mine) == b"picture"


@pytest.mark.parametrize("asset", ["", "asset_../../secret", "asset_" + "g" * 32, "asset_" + "0" * 32 + "\n", "nul\0"])
async def test_foreign_ids_are_nobody_s(server, asset):
    assert await server.inputs.get("me", asset) is None
    assert not await server.inputs.delete("me", asset)


async def test_what_is_unused_goes_without_anybody_uploading_and_use_keeps_it(server, clock):
    used, unused = await server.inputs.put("me", b"used"), await server.inputs.put("me", b"unused")
    clock.advance(900)
    assert await server.inputs.get("me", used)
    clock.advance(101)
    assert await server.inputs.get("me", unused) is None  # whether it was collected or not
    assert await server.collector.collect() == Collected(uploads=1, files=1, bytes=6)
    assert await server.inputs.get("me", used) == b"used"
    assert len(server.files()) == 1


async def test_uses_are_written_down_now_and_then(server, clock):
    asset = await server.inputs.put("me", b"picture")
    start = clock.time()
    for seconds, written in ((50, 0), (100, 0), (101, 101), (150, 101), (202, 202)):
        clock.now = start + seconds
        assert await server.inputs.get("me", asset)
        assert (await server.rows.get("me", asset)).used == start + written


@pytest.mark.parametrize("size", [1000, 10])
async def test_what_is_too_much_goes_in_the_order_of_use(server, clock, size):
    # Three of a thousand bytes are too many bytes, four of ten are too many files.
    assets = []
    for index in range(2 + (size == 10)):
        assets.append(await server.inputs.put("me", bytes([index]) * size))
        clock.advance(101)
    theirs = await server.inputs.put("you", b"x" * 2000)
    assert await server.inputs.get("me", assets[0])
    clock.advance(1)
    last = await server.inputs.put("me", b"x" * size)
    found = [await server.inputs.get("me", asset) is not None for asset in (*assets, last)]
    assert found == [True, False, *([True] * len(assets[2:])), True]
    assert await server.inputs.get("you", theirs)
    assert server.looked == 1


async def test_one_file_may_be_too_much(server):
    with pytest.raises(TooLarge, match="3000 bytes; uploads of one caller may have 2500"):
        await server.inputs.put("me", b"x" * 3000)


async def test_a_file_that_is_gone_is_noticed_and_may_be_put_again(server):
    asset = await server.inputs.put("me", b"picture")
    (server.folder / server.files()[0]).unlink()
    assert await server.inputs.get("me", asset) is None
    assert await server.rows.get("me", asset) is None
    assert await server.inputs.put("me", b"picture") == asset
    (server.folder / server.files()[0]).unlink()
    assert await server.inputs.put("me", b"picture") == asset  # noticed here too
    assert await server.inputs.get("me", asset) == b"picture"
    assert (await server.collector.collect()).failed == 0
    assert await server.inputs.get("me", asset) == b"picture"


async def test_without_room_nothing_stays(tmp_path, database, clock):
    quota = Quota(tmp_path / "full", 10)
    server = Server(tmp_path / "full", database, clock, where=quota.place)
    with pytest.raises(StorageFailure):
        await server.inputs.put("me", b"x" * 20)
    await server.collector.collect()
    assert await server.rows.doomed(9) == ()
    quota.room = 100
    asset = await server.inputs.put("me", b"x" * 20)
    assert await server.inputs.get("me", asset)
    server.bucket.close()


async def test_what_a_death_has_cut_off_is_found_by_its_row(server, clock):
    path = "uploads/" + "0" * 32 + "/asset_" + "0" * 32 + "/" + "0" * 32
    assert await server.rows.begin(upload(path, used=clock.time())) is None
    await server.bucket.put(path, b"half", media_type="image/png", cache_control="")
    clock.advance(3000)
    assert await server.collector.collect() == Collected()
    clock.advance(1000)
    assert await server.collector.collect() == Collected(uploads=1, files=1, bytes=10)
    assert server.files() == []


async def test_living_uploads_are_no_strays_and_forgotten_ones_are(server):
    asset = await server.inputs.put("me", b"picture")
    assert await server.collector.strays(delete=True) == Collected()
    await server.inputs.delete("me", asset)
    (doomed,) = await server.rows.doomed(9)
    assert await server.collector.strays(delete=True) == Collected()  # it still has a row
    await server.rows.forget([doomed.path])
    assert await server.collector.strays(delete=False) == Collected(files=1, bytes=7)
    assert await server.collector.strays(delete=True) == Collected(files=1, bytes=7)
    assert server.files() == []


async def test_whatever_two_servers_do_at_once_an_id_leads_to_its_bytes_and_nothing_else_stays(server, other):
    dice, both = random.Random(7), (server, other)

    async def one(steps):
        for _ in range(steps):
            each, data = dice.choice(both), dice.choice([b"a", b"b"])
            asset = await each.inputs.put("me", data)
            if dice.random() < 0.5:
                await dice.choice(both).inputs.delete("me", asset)
            if dice.random() < 0.3:
                await dice.choice(both).collector.collect()
            assert await dice.choice(both).inputs.get("me", asset) in (data, None)

    await asyncio.gather(*(one(8) for _ in range(4)))
    last = [await server.inputs.put("me", data) for data in (b"a", b"b")]
    await other.collector.collect()
    assert [await other.inputs.get("me", asset) for asset in last] == [b"a", b"b"]
    assert len(server.files()) == 2
    assert await server.rows.doomed(9) == ()
