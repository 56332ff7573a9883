"""Tenants take turns in the queue, on both databases, however many wait."""

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import insert, select, text, update

from pipelines.contract.request import ImageRequest, Priority, Sampling
from server.db import migrating
from server.db.database import Database
from server.db.jobs import SqlJobs, _columns
from server.db.migrating import migrate
from server.db.tables import JOBS
from server.db.turns import next_bulk, next_turn, next_urgent
from server.db.webhooks import Outbox
from server.domain.clock import SetClock
from server.domain.job import Job, JobState, Order
from server.domain.ports.jobs import Ahead
from server.domain.transitions import Dropped, Succeeded


def job(name, tenant, *, images=1, priority=Priority.NORMAL, created=1.0):
    request = ImageRequest(name, "m", "p", 8, 8, tuple(range(images)), Sampling("euler", 4, 1.0), priority=priority)
    return Job(name, Order(request, tenant=tenant, priority=priority), JobState.QUEUED, created, durable=True)


async def told(job):
    return job.id.encode()


@pytest.fixture
def clock():
    return SetClock(100.0)


@pytest.fixture
def jobs(database, clock):
    return SqlJobs(database, clock, Outbox(told))


async def queued(jobs, tenant, count, **fields):
    for index in range(count):
        await jobs.add(job(f"{tenant}{index:03}", tenant, **fields))


async def claimed(jobs, count, images=1):
    """Names of what so many claims take."""
    return [each.id for _ in range(count) for each in await jobs.claim("me", 1e9, images)]


async def test_a_long_queue_of_one_holds_up_nobody_else(jobs):
    await queued(jobs, "a", 200)
    assert await claimed(jobs, 20) == [f"a{index:03}" for index in range(20)]
    await queued(jobs, "b", 3, created=2.0)
    # What was claimed is over, or runs on: it makes no difference.
    for index in range(10):
        await jobs.happen(f"a{index:03}", Succeeded(()), owner="me")
    assert await jobs.ahead(await jobs.get("b002")) == Ahead(5, 5 * 8 * 8 * 4)
    assert await claimed(jobs, 6) == ["a020", "b000", "a021", "b001", "a022", "b002"]
    await queued(jobs, "c", 2, created=3.0)
    assert sorted(await claimed(jobs, 1, images=4)) == ["a023", "a024", "c000", "c001"]


async def test_turns_count_images_and_each_class_has_its_own(jobs):
    await queued(jobs, "a", 6)
    await queued(jobs, "b", 3, images=3, created=2.0)
    await queued(jobs, "c", 2, priority=Priority.BULK)
    await queued(jobs, "d", 2, priority=Priority.BULK, created=2.0)
    assert await claimed(jobs, 9) == ["a000", "b000", "a001", "a002", "a003", "b001", "a004", "a005", "b002"]
    assert await claimed(jobs, 4) == ["c000", "d000", "c001", "d001"]


async def test_bulk_fills_what_others_leave(jobs):
    await queued(jobs, "a", 3)
    await queued(jobs, "b", 9, priority=Priority.BULK)
    assert [each.id for each in await jobs.claim("me", 1e9, 2, 2)] == ["a000", "a001"]
    assert [each.id for each in await jobs.claim("me", 1e9, 4, 0)] == ["a002"]
    assert await jobs.claim("me", 1e9, 4, 0) == ()
    await queued(jobs, "c", 1)
    assert [each.id for each in await jobs.claim("me", 1e9, 4, 3)] == ["c000", "b000", "b001"]
    assert [each.id for each in await jobs.claim("me", 1e9, 2)] == ["b002", "b003"]


async def test_whoever_was_begun_keeps_its_turn_and_gives_none_away(jobs):
    await queued(jobs, "a", 30)
    await claimed(jobs, 20)
    await jobs.happen("a003", Dropped(), owner="me")
    await queued(jobs, "b", 2, created=2.0)
    assert await claimed(jobs, 4) == ["a003", "b000", "a020", "b001"]


async def test_a_queue_that_was_empty_begins_anew_for_all(jobs):
    await queued(jobs, "a", 5)
    await claimed(jobs, 5)
    await jobs.add(job("a100", "a"))
    await jobs.add(job("b100", "b", created=2.0))
    await jobs.add(job("a101", "a"))
    assert await claimed(jobs, 3) == ["a100", "b100", "a101"]


async def test_several_servers_claim_and_queue_at_the_same_time(database, address, jobs, clock):
    """Nobody gets what another has, no two of a tenant have one turn, and the small queue is served early."""
    await queued(jobs, "a", 200)
    others = [jobs, *(SqlJobs(Database(address), clock, Outbox(told)) for _ in range(3))]
    try:
        await asyncio.gather(*(each.add(job(f"b{index}", "b", created=2.0)) for index, each in enumerate(others)))
        async with database.reading() as connection:
            turns = (await connection.execute(select(JOBS.c.turn).where(JOBS.c.tenant == "b"))).scalars().all()
        assert sorted(turns) == [0, 1, 2, 3]
        first = await asyncio.gather(*(each.claim(f"server{index}", 1e9, 4) for index, each in enumerate(others)))
        assert {each.id for some in first for each in some} >= {"b0", "b1", "b2", "b3"}
        taken = [each.id for some in first for each in some]

        async def rest(index, each):
            while found := await each.claim(f"server{index}", 1e9, 7):
                taken.extend(one.id for one in found)

        await asyncio.gather(*(rest(index, each) for index, each in enumerate(others)))
    finally:
        for each in others[1:]:
            await each._database.close()
    assert len(taken) == len(set(taken)) == 204


async def test_with_ten_thousand_waiting_only_what_is_wanted_is_read(database, jobs):
    rows = [{**_columns(job(f"j{index:05}", f"t{index % 7}")), "turn": index // 7} for index in range(10_000)]
    async with database.writing() as connection:
        await connection.execute(insert(JOBS), rows)
        await connection.execute(text("ANALYZE"))
    dialect = database._writes.dialect
    async with database.writing() as connection:
        for statement in (next_urgent(64), next_bulk(64)):
            plan = "EXPLAIN " if database.postgres else "EXPLAIN QUERY PLAN "
            written = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
            told = "\n".join(str(row) for row in await connection.execute(text(plan + written)))
            assert "ix_jobs_next" in told
            assert "sort" not in told.lower()
            assert "temp b-tree" not in told.lower()
        turn = await next_turn(connection, job("new", "t3"))
    assert turn == 1429, "where the tenant's queue ends"
    assert [each.id for each in await jobs.claim("me", 1e9, 7)] == [f"j{index:05}" for index in range(7)]


async def test_what_an_older_server_queues_meanwhile_is_done_too(database, jobs):
    """Such rows have no turn."""
    await queued(jobs, "a", 2)
    await jobs.add(job("old", "b"))
    async with database.writing() as connection:
        await connection.execute(update(JOBS).where(JOBS.c.id == "old").values(turn=None))
    await jobs.add(job("b1", "b", created=2.0))
    assert sorted(await claimed(jobs, 4)) == ["a000", "a001", "b1", "old"]


async def test_what_waited_before_there_were_turns_is_numbered(database, jobs):
    await queued(jobs, "a", 3, images=2)
    await queued(jobs, "b", 2, created=2.0)
    await queued(jobs, "c", 1, priority=Priority.BULK)
    await jobs.claim("me", 1e9, 2)

    def down(connection):
        config = Config()
        config.set_main_option("script_location", str(Path(migrating.__file__).with_name("migrations")))
        config.attributes["connection"] = connection
        command.downgrade(config, "0009")

    async with database.writing() as connection:
        await connection.run_sync(down)
    await migrate(database)
    async with database.reading() as connection:
        turns = (await connection.execute(select(JOBS.c.id, JOBS.c.turn).order_by(JOBS.c.id))).all()
    assert [tuple(row) for row in turns] == [("a000", None), ("a001", 0), ("a002", 2), ("b000", 0), ("b001", 1), ("c000", 0)]
