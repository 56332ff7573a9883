"""How SQLite goes about what is done for each request: by an index, however much there is."""

import re
import secrets

import pytest
from sqlalchemy import event

from pipelines.contract.request import ImageRequest, Sampling
from server.db.assets import SqlAssets
from server.db.cache import SqlCache
from server.db.database import Database, beside
from server.db.jobs import SqlJobs
from server.db.ledger import SqlLedger
from server.db.migrating import migrate
from server.db.uploads import SqlUploads
from server.db.webhooks import Outbox
from server.domain.asset import Asset, Format
from server.domain.caching import Kept, Keys
from server.domain.clock import SetClock
from server.domain.generation import Route, Usage
from server.domain.job import Job, JobState, Order
from server.domain.ports.jobs import JobFilter
from server.domain.spending import Charge, Hold
from server.domain.stored import Blob, Stored
from server.domain.transitions import Begun, CancelAsked, Succeeded, advance
from server.domain.upload import Upload

NOW = 1_800_000_000.0


async def told(job):
    return job.id.encode()


@pytest.fixture
async def database(tmp_path):
    """SQLite: PostgreSQL's planner goes by how much there is, and would scan what is this small."""
    database = Database(beside(tmp_path))
    await migrate(database)
    yield database
    await database.close()


def job(name, *, durable=True):
    request = ImageRequest(name, "m", "a cat", 64, 64, (1,), Sampling("euler", 4, 4.0))
    return Job(name, Order(request, tenant="one"), JobState.QUEUED, NOW, durable=durable)


async def jobs_live(database):
    jobs = SqlJobs(database, SetClock(NOW), Outbox(told))
    for name in "abc":
        await jobs.add(job(name))
    await jobs.record([advance(job("d", durable=False), Begun("me", NOW), NOW)])
    await jobs.claim("me", NOW + 15, 2)
    await jobs.renew("me", ["a", "b"], NOW + 30)
    await jobs.happen("a", Succeeded(()), owner="me")
    await jobs.happen("b", CancelAsked())
    await jobs.get("a")
    await jobs.page(JobFilter("one"), None, 10)
    await jobs.page(JobFilter("one"), (NOW, "b"), 10)
    await jobs.sweep()
    await jobs.ahead(job("c"))
    await jobs.queued_images()
    await jobs.forget(NOW - 60)
    await jobs.delete("a")


async def assets_live(database):
    assets = SqlAssets(database)

    def of(digest, job_id="a"):
        blob = Blob(secrets.token_hex(16), "one", digest, secrets.token_hex(8), 4, NOW)
        return blob, Stored(Asset(secrets.token_hex(8), Format.PNG, 1, 1, 1, 4), "one", digest, job_id, NOW, NOW + 60, b"{}")

    for digest in ("x", "y", "x"):
        blob, stored = of(digest)
        if await assets.begin(blob, stored) is None:
            stored = await assets.finish(blob, stored)
    await assets.get(stored.asset.name)
    _, copied = of("x", "b")
    await assets.copy(stored.asset.name, copied)
    await assets.delete("one", [stored.asset.name])
    await assets.discard("one", "b")
    await assets.expire(NOW, 10)
    await assets.give_up(NOW, 10)
    await assets.forget(await assets.doomed(10))
    blob, stored = of("z")
    await assets.begin(blob, stored)
    await assets.abandon(blob)
    await assets.lost("nowhere")


async def uploads_live(database):
    uploads = SqlUploads(database)
    for path, name in (("a", "x"), ("b", "y"), ("c", "x")):
        upload = Upload(path, "one", name, 4, NOW, NOW)
        if await uploads.begin(upload) is None:
            await uploads.finish(upload)
    await uploads.get("one", "x")
    await uploads.touch("a", NOW + 60, NOW + 30)
    await uploads.delete("one", "y")
    await uploads.trim("one", 0, 0, 10)
    await uploads.expire(NOW, NOW, 10)
    await uploads.forget([each.path for each in await uploads.doomed(10)])
    await uploads.known(["a"])
    await uploads.doom("a")


async def books_live(database):
    ledger = SqlLedger(database, SetClock(NOW), lambda _crossing: b"")
    hold = Hold("a", 1, "openai", "one", "m", 0.1, NOW)
    await ledger.reserve(hold, (), owner="me", lease=NOW + 60)
    await ledger.renew("me", ["a"], NOW + 90)
    await ledger.settle(hold, Charge(Usage(usd=0.1), 1, 1.0, "m"), ())
    await ledger.sweep()
    await ledger.balances("2027-01", "one")


async def cache_lives(database):
    cache = SqlCache(database)
    kept = Kept(Keys("exact", "loose"), "one", (), Route(), Usage(), NOW)
    await cache.keep(kept)
    await cache.find("exact", NOW)
    await cache.find_loose("loose", NOW)
    await cache.drop(kept)


@pytest.mark.parametrize("life", [jobs_live, assets_live, uploads_live, books_live, cache_lives])
async def test_nothing_goes_through_a_whole_table(database, life):
    said: dict[str, object] = {}
    for engine in (database._writes, database._reads):

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def note(_connection, _cursor, statement, parameters, _context, many):
            said.setdefault(statement, parameters[0] if many and isinstance(parameters[0], tuple) else parameters)

    await life(database)
    assert said
    plans = {}
    async with database.reading() as connection:
        for statement, parameters in dict(said).items():
            found = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans[statement] = [row[3] for row in found.all()]
    # A subquery's own steps are told beside it.
    whole = {statement: [step for step in plan if re.match(r"SCAN (?!anon_)\w+$", step)] for statement, plan in plans.items()}
    assert {statement: steps for statement, steps in whole.items() if steps} == {}


async def test_equal_files_are_found_by_their_digest(database):
    """And not among all that are ready: the index knows only those, and says so only to who asks for just them."""
    said: dict[str, object] = {}

    @event.listens_for(database._writes.sync_engine, "before_cursor_execute")
    def note(_connection, _cursor, statement, parameters, _context, many):
        said.setdefault(statement, parameters[0] if many and isinstance(parameters[0], tuple) else parameters)

    await assets_live(database)
    asked = {statement: parameters for statement, parameters in said.items() if "digest =" in statement}
    assert len(asked) == 3
    async with database.reading() as connection:
        for statement, parameters in asked.items():
            plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).all()
            assert any("uq_blobs_content (tenant=? AND digest=?)" in row[3] for row in plan), (statement, plan)
