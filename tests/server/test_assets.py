"""Results in a folder and in a real S3 server: the same store, the same promises."""

import asyncio
import threading

import httpx
import pytest

from server.api.native.standing import shown
from server.db.assets import SqlAssets
from server.db.database import Database, beside
from server.db.migrating import migrate
from server.domain.asset import Asset, Format
from server.domain.clock import SystemClock
from server.domain.failures import StorageFailure
from server.domain.stored import New
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.places import place
from server.storage.signing import LinkSigner, secret_of
from server.telemetry.logs import silent
from tests.doubles.stores import stored_in

DATA = bytes(range(256)) * 4096
"""1 MiB: four pieces."""


@pytest.fixture(params=["folder", "s3"])
def where(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return place(None, tmp_path / "results")
    server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return place(server.place(), tmp_path / "unused", server.endpoint)


@pytest.fixture
async def database(tmp_path):
    database = Database(beside(tmp_path))
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture
def bucket(where):
    bucket = Bucket(where, silent())
    yield bucket
    bucket.close()


@pytest.fixture
def store(where, database, tmp_path):
    return stored_in(tmp_path / "results", database, SystemClock(), place=where)


def put(store, data=DATA, tenant="t"):
    return store.put(data, New(Format.WEBP, 16, 8, 7, tenant, "job"))


async def joined(pieces):
    return b"".join([piece async for piece in pieces])


async def test_put_get_and_parts(store, bucket):
    await bucket.check()
    asset = await put(store)
    stored = await store.facts(asset.name)
    assert await store.get(asset.name) == DATA
    assert await joined(await store.open(stored, 0, len(DATA))) == DATA
    assert await joined(await store.open(stored, 300_000, 700_001)) == DATA[300_000:700_001]
    pieces = await store.open(stored, 0, len(DATA))
    assert len(await anext(pieces)) < len(DATA)  # not read whole


async def test_delete_and_collect(store, bucket, database):
    first, second = await put(store), await put(store)
    assert first.path == second.path
    collector = Collector(SqlAssets(database), bucket, SystemClock(), silent(), budget=1 << 30)
    await store.delete("t", [first.name])
    assert (await collector.collect()).files == 0
    await store.delete("t", [second.name])
    done = await collector.collect()
    assert (done.files, done.bytes) == (1, len(DATA))
    assert not await bucket.has(first.path)
    assert await bucket.get(first.path) is None
    assert await bucket.open(first.path, 0, 1) is None
    await bucket.delete(first.path)  # twice does no harm


async def test_strays_are_found_in_the_listing(store, bucket, database):
    asset = await put(store)
    await bucket.put(asset.path.replace("/20", "/19"), b"stray", media_type="image/webp", cache_control="")
    collector = Collector(SqlAssets(database), bucket, SystemClock(), silent(), budget=1 << 30)
    assert (await collector.strays(delete=True)).files == 1
    assert (await collector.strays(delete=True)).files == 0
    assert await bucket.has(asset.path)


async def test_signed_urls_open_one_file_until_they_expire(store, where, until):
    asset, other = await put(store), await put(store, b"other")
    url, short = await store.signed(asset, 3600), await store.signed(asset, 1)
    if where.remote:
        check_signed(url, short, asset, other, until)
    else:
        assert url is None


def check_signed(url, short, asset, other, until):
    answer = httpx.get(url)
    assert answer.content == DATA
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["cache-control"].startswith("private, max-age=")
    assert httpx.get(url, headers={"Range": "bytes=3-5"}).content == DATA[3:6]
    altered = [url[:-1] + ("0" if url[-1] != "0" else "1"), url.replace(asset.path, other.path), url.partition("?")[0]]
    assert [httpx.get(each).status_code for each in altered] == [403, 403, 403]
    until(lambda: httpx.get(short).status_code == 403)


async def test_links_do_not_wait_for_files_on_their_way(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")
    bucket, go = Bucket(place("s3://results/x", tmp_path, "http://127.0.0.1:1"), silent()), threading.Event()
    slow = [asyncio.create_task(bucket._do(lambda _store: go.wait())) for _ in range(64)]
    async with asyncio.timeout(30):
        assert (await bucket.signed("a/b.png", 60)).startswith("http://127.0.0.1:1/results/x/a/b.png?")
    go.set()
    await asyncio.gather(*slow)
    bucket.close()


async def test_links_of_several_results_are_made_together():
    all_asked = asyncio.Barrier(3)

    async def link(asset):
        async with asyncio.timeout(30), all_asked:
            return asset.name

    assets = tuple(Asset(f"{name}.png", Format.PNG, 1, 1, 7, 1) for name in "abc")
    assert [image.url for image in await shown(assets, link)] == ["a.png", "b.png", "c.png"]


async def test_a_place_that_is_not_there_is_said_to_be(s3, monkeypatch, tmp_path):
    for name, value in {**s3.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageFailure):
        await Bucket(place(s3.place(), tmp_path, s3.endpoint), silent()).check()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.environment["AWS_SECRET_ACCESS_KEY"])
    with pytest.raises(StorageFailure) as error:
        await Bucket(place("s3://nowhere/x", tmp_path, s3.endpoint), silent()).check()
    assert "127.0.0.1" not in error.value.message


async def test_file_urls_are_folders(tmp_path):
    where = place(f"file://{tmp_path}/a%20b", tmp_path / "unused")
    await Bucket(where, silent()).put("x/y.png", b"1", media_type="image/png", cache_control="")
    assert (tmp_path / "a b/x/y.png").read_bytes() == b"1"
    assert (tmp_path / "a b").stat().st_mode & 0o777 == 0o700


def test_the_secret_of_links_is_made_once(tmp_path):
    secret = secret_of(tmp_path / "state")
    assert len(secret) == 64
    assert secret_of(tmp_path / "state") == secret
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["link-secret"]
    assert (tmp_path / "state/link-secret").stat().st_mode & 0o777 == 0o600


def test_secrets_can_be_changed():
    old, both, new = LinkSigner(lambda: [b"a" * 32]), LinkSigner(lambda: [b"b" * 32, b"a" * 32]), LinkSigner(lambda: [b"b" * 32])
    signature = old.sign("name.png", 99)
    assert both.valid("name.png", 99, signature)
    assert not new.valid("name.png", 99, signature)
    assert new.valid("name.png", 99, both.sign("name.png", 99))
    for name, expires, given in (("nome.png", 99, signature), ("name.png", 98, signature), ("name.png", 99, signature + "é")):
        assert not old.valid(name, expires, given)


async def test_a_place_that_is_away_is_no_full_one(s3, monkeypatch, tmp_path):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(place("s3://results/x", tmp_path, "http://127.0.0.1:1"), silent())
    with pytest.raises(StorageFailure) as error:
        await bucket.put("a/b.png", b"1", media_type="image/png", cache_control="")
    assert (error.value.code, error.value.retryable) == ("storage_unavailable", True)
