"""Assets and their blobs: whatever is put, copied, deleted, lost or cut off, each asset has its bytes, and nothing else stays."""

import asyncio
import hashlib
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, make_url, select

from server.db.assets import SqlAssets
from server.db.database import Database
from server.db.migrating import migrate
from server.db.tables import ASSETS, BLOBS
from server.domain.asset import Asset, Format
from server.domain.clock import SetClock
from server.domain.failures import StorageFailure
from server.domain.retention import Keeping
from server.domain.stored import Blob, Holding, New, Stored
from server.storage.assets import path_of
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.places import place
from server.storage.write_behind import WriteBehind
from server.telemetry.logs import silent
from tests.doubles.stores import stored_in

HOUR = 3600.0
TENANTS = ("one", "two")


class Shelf:
    """A store of results and its collector, over one folder."""

    def __init__(self, folder, database, *, budget=1 << 30, keeping=None, clock=None, behind=False):
        self.folder, self.clock = folder, clock or SetClock(1_800_000_000.0)
        kept = (keeping or {}).get
        self.rows, self.bucket = SqlAssets(database), Bucket(place(None, folder), silent())
        if behind:
            self.rows = WriteBehind(self.rows, self.clock, silent())
        self.store = stored_in(folder, self.rows, self.clock, seconds=24 * HOUR, keeping=lambda tenant: kept(tenant, Keeping()))
        self.collector = Collector(
            self.rows, self.bucket, self.clock, silent(), budget=budget, keeping=lambda tenant: kept(tenant, Keeping())
        )

    async def put(self, data, tenant="one", job_id="job"):
        new = New(Format.PNG, 4, 2, 2**64 - 1, tenant, job_id, metadata=b'{"a":1}', awaited=True)
        return await self.store.put(data, new)

    def files(self):
        return sorted(file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*") if file.is_file())


def first_of(blob):
    """The asset that ``blob`` is written for."""
    return Stored(Asset("a", Format.PNG, 1, 1, 1, 4), blob.tenant, blob.digest, "job", blob.created, blob.created + HOUR, b"")


@pytest.fixture(params=[False, True], ids=["", "behind"])
def behind(request):
    """Whether rows are written a moment later."""
    return request.param


@pytest.fixture
def shelf(tmp_path, database, behind):
    return Shelf(tmp_path / "results", database, behind=behind)


async def test_what_is_put_is_known_by_its_name_alone(shelf):
    asset = await shelf.put(b"data")
    stored = await shelf.store.facts(asset.name)
    assert stored.asset == asset
    assert (asset.seed, asset.size, stored.tenant, stored.job_id, stored.metadata) == (2**64 - 1, 4, "one", "job", b'{"a":1}')
    assert stored.digest == hashlib.sha256(b"data").hexdigest()
    assert stored.expires == stored.created + 24 * HOUR
    assert shelf.files() == [asset.path]
    assert asset.path.split("/")[1:4] == ["2027", "01", "15"]
    assert "one" not in asset.path


@pytest.mark.parametrize(
    "name", ["", "../secret.png", "/etc/passwd", "a" * 32 + ".png/..", "a" * 32 + ".png\n", "." * 32 + ".png", "a" * 32 + ".gif"]
)
async def test_foreign_names_are_nothing(shelf, name):
    assert await shelf.store.get(name) is None
    assert await shelf.store.delete("one", [name]) == 0


async def test_equal_bytes_of_one_tenant_are_stored_once(shelf):
    first, second = await shelf.put(b"same"), await shelf.put(b"same")
    other = await shelf.put(b"same", "two")
    assert first.name != second.name
    assert first.path == second.path != other.path
    assert len(shelf.files()) == 2
    assert await shelf.rows.holdings() == (Holding("one", 2, 4), Holding("two", 1, 4))
    assert await shelf.store.delete("one", [first.name]) == 1
    assert (await shelf.collector.collect()).files == 0
    assert await shelf.store.get(second.name) == b"same"
    assert await shelf.store.delete("one", [second.name, other.name]) == 1  # another's is not touched
    assert (await shelf.collector.collect()).files == 1
    assert shelf.files() == [other.path]


async def test_all_that_a_job_has_made_goes_with_it(shelf):
    mine = [await shelf.put(data, job_id="a") for data in (b"1", b"2", b"2")]
    others = [await shelf.put(b"1", job_id="b"), await shelf.put(b"3", "two", job_id="a")]
    assert await shelf.store.discard("one", "a") == 3
    assert await shelf.store.discard("one", "a") == 0
    assert [await shelf.store.get(asset.name) for asset in (*mine, *others)] == [None] * 3 + [b"1", b"3"]
    assert (await shelf.collector.collect()).files == 1


async def several(shelf, count):
    """So many assets of one byte, each older than the next."""
    made = []
    for index in range(count):
        shelf.clock.advance(1.0)
        made.append(await shelf.put(bytes([index])))
    return made


async def doomed(shelf, count):
    """The same, deleted; their files are where ``shelf`` has them."""
    made = await several(shelf, count)
    await shelf.store.delete("one", [asset.name for asset in made])
    return made


def stuck(shelf, asset):
    """Nobody can delete a file that is a folder with something in it."""
    path = shelf.folder / asset.path
    path.unlink()
    path.mkdir()
    (path / "x").touch()
    return path


async def test_a_file_that_cannot_be_deleted_holds_up_no_others(shelf):
    made = await doomed(shelf, 5)
    path = stuck(shelf, made[1])
    done = await shelf.collector.collect()
    assert (done.files, done.failed) == (4, 1)
    assert (await shelf.collector.collect()).failed == 1
    (path / "x").unlink()
    path.rmdir()
    assert (await shelf.collector.collect()).files == 1
    assert await shelf.rows.doomed(10) == ()


async def test_a_place_that_is_away_is_left_alone_and_later_ones_get_their_turn(shelf):
    made = await doomed(shelf, 20)
    for asset in made[:10]:
        stuck(shelf, asset)
    done = await shelf.collector.collect()
    assert (done.files, done.failed) == (0, 8), "it looked like a place that is away"
    done = await shelf.collector.collect()
    assert (done.files, done.failed) == (10, 2), "the next run begins behind them"
    assert (await shelf.collector.collect()).failed == 8, "and then they are tried again"


async def test_again_is_a_new_asset_without_a_copy(shelf):
    first = await shelf.put(b"bytes")
    second = await shelf.store.again(first, "two", "other-job")
    assert second.name != first.name
    assert (second.path, second.seed, second.width) == (first.path, first.seed, first.width)
    stored = await shelf.store.facts(second.name)
    assert (stored.tenant, stored.job_id, stored.metadata) == ("two", "other-job", b'{"a":1}')
    await shelf.store.delete("one", [first.name])
    await shelf.collector.collect()
    assert await shelf.store.get(second.name) == b"bytes"
    assert await shelf.store.again(first, "one", "job") is None


async def test_what_is_old_goes_by_its_tenant_s_time(tmp_path, database):
    shelf = Shelf(tmp_path / "results", database, keeping={"two": Keeping(hours=1.0)})
    long, short = await shelf.put(b"1"), await shelf.put(b"2", "two")
    shelf.clock.advance(HOUR)
    assert await shelf.store.get(short.name) is None  # at once, collected or not
    assert await shelf.store.again(short, "two", "job") is None
    assert shelf.files() == sorted([long.path, short.path])
    await shelf.collector.collect()
    assert shelf.files() == [long.path]
    shelf.clock.advance(23 * HOUR)
    await shelf.collector.collect()
    assert shelf.files() == []


async def test_what_is_too_much_goes_oldest_first(tmp_path, database):
    shelf = Shelf(tmp_path / "results", database, budget=2500, keeping={"two": Keeping(bytes=1000)})
    mine = []
    for letter in b"abcd":
        mine.append(await shelf.put(bytes([letter]) * 1000))
        shelf.clock.advance(1)
    assert (await shelf.collector.collect()).files == 2
    assert [await shelf.store.get(asset.name) is not None for asset in mine] == [False, False, True, True]
    for letter in b"yz":
        last = await shelf.put(bytes([letter]) * 400, "two")
        shelf.clock.advance(1)
    # Nobody's share is above its own bound, so the oldest of all goes.
    assert (await shelf.collector.collect()).assets == 1
    await shelf.put(b"x" * 700, "two")
    await shelf.collector.collect()
    assert await shelf.rows.holdings() == (Holding("one", 1, 1000), Holding("two", 1, 700))
    assert await shelf.store.get(last.name) is None


async def test_assets_that_share_their_bytes_go_together_or_free_nothing(tmp_path, database):
    shelf = Shelf(tmp_path / "results", database, budget=1500)
    first = await shelf.put(b"a" * 1000)
    shelf.clock.advance(1)
    await shelf.put(b"b" * 600)
    shelf.clock.advance(1)
    again = await shelf.store.again(first, "one", "job")
    done = await shelf.collector.collect()
    assert (done.assets, done.files, done.bytes) == (2, 1, 600)
    assert await shelf.store.get(first.name) is None
    assert await shelf.store.get(again.name) == b"a" * 1000


async def test_who_trims_waits_for_nobody_who_deletes(tmp_path, postgres_url):
    databases = [Database(make_url(postgres_url).set(drivername="postgresql+asyncpg")) for _ in range(2)]
    await migrate(databases[0])
    shelf = Shelf(tmp_path / "results", databases[0])
    first, second, third = await several(shelf, 3)
    async with asyncio.timeout(30), databases[1].writing() as connection:
        await connection.execute(delete(ASSETS).where(ASSETS.c.name == first.name))
        assert await shelf.rows.trim(1, 10) == 1
    assert [await shelf.store.get(each.name) for each in (first, second, third)] == [None, None, bytes([2])]
    for each in databases:
        await each.close()


async def test_a_file_that_somebody_deleted_is_written_again(shelf):
    first = await shelf.put(b"bytes")
    (shelf.folder / first.path).unlink()
    assert await shelf.store.get(first.name) is None
    second = await shelf.put(b"bytes")
    assert second.path != first.path
    (shelf.folder / second.path).unlink()
    third = await shelf.put(b"bytes")  # without anybody having looked
    assert await shelf.store.get(third.name) == b"bytes"
    await shelf.collector.collect()
    assert await shelf.rows.holdings() == (Holding("one", 1, 5),)


async def test_what_a_dead_server_left_is_found_by_its_row(shelf):
    for number, state in enumerate(("row only", "half a file", "file")):
        blob = Blob(
            f"{number:032}", "one", f"{number:064}", path_of("one", 0.0, f"{number:032}", Format.PNG), 4, shelf.clock.time()
        )
        assert await shelf.rows.begin(blob, first_of(blob)) is None
        if state == "file":
            await shelf.bucket.put(blob.path, b"data", media_type="image/png", cache_control="")
        elif state == "half a file":
            half = shelf.folder / f"{blob.path}#1"
            half.parent.mkdir(parents=True)
            half.write_bytes(b"da")
    asset = await shelf.put(b"living")
    await shelf.collector.collect()
    assert len(shelf.files()) == 3  # it may still be at it
    shelf.clock.advance(HOUR + 1)
    assert (await shelf.collector.collect()).files == 3
    assert shelf.files() == [asset.path]


async def test_a_writer_that_took_too_long_gives_up(shelf):
    blob = Blob("b", "one", "d", path_of("one", 0.0, "0" * 32, Format.PNG), 4, shelf.clock.time())
    assert await shelf.rows.begin(blob, first_of(blob)) is None
    shelf.clock.advance(HOUR + 1)
    await shelf.collector.collect()
    stored = await shelf.store.facts((await shelf.put(b"any")).name)
    assert await shelf.rows.finish(blob, stored) is None


async def test_a_slow_write_leaves_nothing(shelf):
    class Slow(Bucket):
        async def put(self, path, data, **facts):
            shelf.clock.advance(HOUR + 1)
            await shelf.collector.collect()
            await super().put(path, data, **facts)

    store = stored_in(shelf.folder, shelf.rows, shelf.clock)
    store._bucket = Slow(place(None, shelf.folder), silent())
    with pytest.raises(StorageFailure, match="given up"):
        await store.put(b"data", New(Format.PNG, 1, 1, 1, "one", "job"))
    assert shelf.files() == []


async def test_strays_are_files_of_ours_without_a_row(shelf):
    asset = await shelf.put(b"known")
    (shelf.folder / "notes.txt").write_text("mine")
    stray = path_of("one", 0.0, "f" * 32, Format.PNG)
    await shelf.bucket.put(stray, b"stray", media_type="image/png", cache_control="")
    for dry in (True, False):
        found = await shelf.collector.strays(delete=not dry)
        assert (found.files, found.bytes) == (1, 5)
    assert shelf.files() == sorted([asset.path, "notes.txt"])


STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(TENANTS), st.sampled_from([b"a", b"bb", b"ccc"])),
    st.tuples(st.just("again"), st.sampled_from(TENANTS), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.sampled_from(TENANTS), st.integers(0, 9)),
    st.tuples(st.just("lose"), st.none(), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.none(), st.sampled_from([HOUR / 2, 13 * HOUR])),
    st.tuples(st.just("die"), st.sampled_from(TENANTS), st.booleans()),
    st.tuples(st.just("collect"), st.none(), st.none()),
    st.tuples(st.just("breathe"), st.none(), st.none()),
)


@settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=14))
async def test_any_sequence_keeps_what_it_should_and_nothing_else(tmp_path, database, behind, steps):  # noqa: C901, PLR0912 - a model
    async with database.writing() as connection:
        await connection.execute(delete(ASSETS))
        await connection.execute(delete(BLOBS))
    shelf = Shelf(tmp_path / "results", database, behind=behind)
    made: list[tuple[Asset, str, bytes, float]] = []
    gone: set[str] = set()
    lost: set[str] = set()
    for verb, tenant, what in steps:
        now = shelf.clock.time()
        if verb == "put":
            asset = await shelf.put(what, tenant)
            made.append((asset, tenant, what, now + 24 * HOUR))
        elif verb == "again" and made:
            source, _, data, expires = made[what % len(made)]
            new = await shelf.store.again(source, tenant, "job")
            known = source.name not in gone and now < expires
            assert new is None or known
            if new is not None:
                made.append((new, tenant, data, now + 24 * HOUR))
            else:
                assert not known or source.path in lost
        elif verb == "delete" and made:
            asset, owner, _, _ = made[what % len(made)]
            await shelf.store.delete(tenant, [asset.name])
            gone |= {asset.name} if owner == tenant else set()
        elif verb == "lose" and made:
            asset = made[what % len(made)][0]
            (shelf.folder / asset.path).unlink(missing_ok=True)
            lost.add(asset.path)
        elif verb == "wait":
            shelf.clock.advance(what)
        elif verb == "die":
            blob = Blob(f"{len(steps)}{now}{random.random()}"[:32], tenant, "0" * 64, f"x/{random.random()}", 1, now)
            assert await shelf.rows.begin(blob, first_of(blob)) is None
            if what:
                await shelf.bucket.put(blob.path, b"?", media_type="image/png", cache_control="")
        elif verb == "collect":
            await shelf.collector.collect()
        elif verb == "breathe" and behind:
            await shelf.rows.fill()
    for asset, _, data, expires in made:
        there = asset.name not in gone and asset.path not in lost and shelf.clock.time() < expires
        assert await shelf.store.get(asset.name) == (data if there else None)
    shelf.clock.advance(48 * HOUR)
    await shelf.collector.collect()
    assert shelf.files() == []
    if behind:
        async with shelf.rows.running():
            pass
    async with database.reading() as connection:
        assert (
            (await connection.execute(select(BLOBS.c.id))).all() == (await connection.execute(select(ASSETS.c.name))).all() == []
        )


async def test_servers_that_put_delete_and_collect_the_same_bytes_at_once(tmp_path, address, database, behind):
    databases = [Database(address) for _ in range(3)]
    servers = [Shelf(tmp_path / "results", each, behind=behind) for each in databases]
    living: dict[str, bytes] = {}

    async def client(server, seed):
        rng = random.Random(seed)
        mine: list[Asset] = []
        for _ in range(14):
            data = rng.choice([b"a", b"bb"])
            asset = await server.put(data)
            living[asset.name] = data
            mine.append(asset)
            if rng.random() < 0.3:
                new = await server.store.again(asset, "one", "job")
                assert new is not None
                living[new.name] = data
                mine.append(new)
            while mine and rng.random() < 0.7:
                old = mine.pop(rng.randrange(len(mine)))
                del living[old.name]
                assert await server.store.delete("one", [old.name]) == 1

    async def collector(server, done):
        while not done.is_set():
            await server.collector.collect()
            await asyncio.sleep(0)

    done = asyncio.Event()
    collecting = [asyncio.create_task(collector(server, done)) for server in servers]
    await asyncio.gather(*(client(server, number) for number, server in enumerate(servers * 2)))
    done.set()
    await asyncio.gather(*collecting)
    for server in servers if behind else ():
        await server.rows.settle()
    try:
        for name, data in living.items():
            assert await servers[0].store.get(name) == data
        await servers[0].collector.collect()
        assert len(servers[0].files()) == len(set(living.values()))
    finally:
        for each in databases:
            await each.close()
