"""The repository of batches, on both databases: each line is a job once, and ends with it."""

import asyncio
import json

import msgspec
import pytest
from sqlalchemy import func, select

from pipelines.contract.errors import EngineFailure
from pipelines.contract.request import ImageRequest, Priority, Sampling
from server.db.batches import LineEnds, SqlBatches
from server.db.jobs import SqlJobs
from server.db.tables import BATCH_INPUTS, BATCH_LINES, WEBHOOKS
from server.db.webhooks import Outbox
from server.domain.asset import Asset, Format
from server.domain.batch import Batch, BatchState, Line, LineState, Wanted
from server.domain.clock import SetClock
from server.domain.job import Job, JobState, LineOf, Order
from server.domain.ports.jobs import JobFilter
from server.domain.transitions import CancelAsked, Failed, Succeeded
from server.domain.webhook import Notify
from server.jobs.webhooks import compose_batch

ASSET = Asset("a.png", Format.PNG, 8, 8, 1, 99)


def line(number, *, batch="b", images=1):
    request = ImageRequest(
        id=f"{batch}-{number}",
        model="m",
        prompt="p",
        width=8,
        height=8,
        seeds=tuple(range(images)),
        sampling=Sampling("euler", 4, 1.0),
        priority=Priority.BULK,
    )
    order = Order(request, tenant="t", priority=Priority.BULK, line=LineOf(batch, number))
    return Line(number, f"custom-{number}", Wanted(order))


def job(of, created=1.0):
    order = of.wanted.order
    return Job(order.request.id, order, JobState.QUEUED, created, durable=True)


@pytest.fixture
def clock():
    return SetClock(100.0)


@pytest.fixture
def batches(database, clock):
    return SqlBatches(database, clock, compose_batch)


async def named(job):
    return job.id.encode()


@pytest.fixture
def jobs(database, clock):
    return SqlJobs(database, clock, LineEnds(Outbox(named)))


async def accepted(batches, numbers, *, batch="b", tenant="t", created=100.0, notify=None, images=1):
    """A batch of lines with those numbers."""
    new = Batch(batch, tenant, BatchState.RECEIVING, created)
    await batches.begin(new)
    await batches.receive(new, [line(number, batch=batch, images=images) for number in numbers], {"asset_1": b"picture"})
    new = msgspec.structs.replace(new, state=BatchState.RUNNING, lines=len(numbers), images=images * len(numbers), notify=notify)
    await batches.accept(new)
    return new


async def fed(batches, batch="b", images=99):
    """All its waiting lines, as jobs."""
    found = await batches.waiting(batch, images)
    return await batches.enqueue(batch, {each.number: job(each, created=each.number) for each in found})


async def ended(jobs, happening=None):
    """What is queued is done, or ends in ``happening``."""
    for claimed in await jobs.claim("me", 1e9, 99):
        await jobs.happen(claimed.id, happening or Succeeded((ASSET,)), owner="me")


async def test_a_batch_is_nobody_s_before_it_is_accepted(batches):
    half = Batch("b", "t", BatchState.RECEIVING, 1.0)
    await batches.begin(half)
    await batches.receive(half, [line(1)], {})
    assert await batches.get("b") is None
    assert (await batches.page("t", None, 9)).batches == ()
    assert await batches.hungry(9) == ()
    assert await batches.finish() == ()
    # Whoever begins it again, as after a crash, begins from nothing.
    whole = await accepted(batches, [1, 2])
    assert await batches.get("b") == whole
    assert [each.number for each in await batches.waiting("b", 9)] == [1, 2]


async def test_whoever_lost_a_batch_that_comes_in_cannot_touch_another_s(batches, database):
    lost, taken = (Batch("b", "t", BatchState.RECEIVING, created) for created in (1.0, 2.0))
    await batches.begin(lost)
    await batches.receive(lost, [line(1)], {"asset_1": b"one"})
    await batches.begin(taken)
    for attempt in (batches.receive(lost, [line(2)], {"asset_2": b"two"}), batches.accept(lost)):
        with pytest.raises(EngineFailure, match="taken over"):
            await attempt
    await batches.receive(taken, [line(1)], {"asset_1": b"one"})
    await batches.accept(taken)
    for attempt in (batches.begin(lost), batches.receive(lost, [line(3)], {}), batches.accept(lost), batches.accept(taken)):
        with pytest.raises(EngineFailure, match="taken over"):
            await attempt
    assert (await batches.get("b")).state is BatchState.RUNNING
    assert [each.number for each in await batches.waiting("b", 9)] == [1]
    async with database.reading() as connection:
        assert (await connection.execute(select(BATCH_INPUTS.c.name))).scalars().all() == ["asset_1"]


async def test_lines_become_jobs_in_order_and_results_as_they_end(batches, jobs):
    await accepted(batches, [2, 3, 5])
    (first,) = await fed(batches, images=1)
    assert (first.id, first.order.priority, first.order.line) == ("b-2", Priority.BULK, LineOf("b", 2))
    assert await jobs.get("b-2") == first
    assert await batches.room() == 1
    assert await batches.results("b", 0, 9) == ()
    await ended(jobs)
    await fed(batches)
    (result,) = await batches.results("b", 0, 9)
    assert (result.number, result.custom_id, result.state) == (2, "custom-2", LineState.SUCCEEDED)
    assert (result.ended.job_id, result.ended.assets, result.ended.error) == ("b-2", (ASSET,), None)
    # The third ends before the second: results stop at what is not over.
    claimed = await jobs.claim("me", 1e9, 99)
    await jobs.happen("b-5", Failed(EngineFailure("no").report()), owner="me")
    assert [each.number for each in await batches.results("b", 0, 9)] == [2]
    standing = await batches.standing("b")
    assert (standing.counts, standing.running, standing.work) == (
        {LineState.SUCCEEDED: 1, LineState.QUEUED: 1, LineState.FAILED: 1},
        1,
        256,
    )
    assert [each.id for each in claimed] == ["b-3", "b-5"]
    await jobs.happen("b-3", Succeeded((ASSET,)), owner="me")
    assert [each.number for each in await batches.results("b", 2, 9)] == [3, 5]
    assert (await batches.results("b", 3, 9))[0].ended.error.message == "no"


async def test_whoever_feeds_at_the_same_time_each_line_is_one_job(batches, database, clock, jobs):
    await accepted(batches, range(1, 41))
    others = [batches, *(SqlBatches(database, clock, compose_batch) for _ in range(3))]
    found = [await each.waiting("b", 99) for each in others]
    made = await asyncio.gather(
        *(each.enqueue("b", {one.number: job(one) for one in lines}) for each, lines in zip(others, found, strict=True))
    )
    assert sorted(one.id for some in made for one in some) == sorted(f"b-{number}" for number in range(1, 41))
    assert len((await jobs.page(JobFilter("t", batch="b"), None, 99)).jobs) == 40
    assert (await jobs.page(JobFilter("t", batch="c"), None, 99)).jobs == ()
    assert await batches.waiting("b", 99) == ()


async def test_batches_take_turns_and_large_lines_count_by_their_images(batches, clock):
    await accepted(batches, [1, 2], batch="old")
    clock.advance(1)
    await accepted(batches, [1, 2], batch="new", images=4)
    assert await batches.hungry(9) == ("old", "new")
    clock.advance(1)
    await fed(batches, "old", images=1)
    assert await batches.hungry(9) == ("new", "old")
    assert [each.number for each in await batches.waiting("new", 7)] == [1]
    assert [each.number for each in await batches.waiting("new", 1)] == [1], "one at least"


async def test_jobs_of_batches_do_not_fill_the_queue_of_others(batches, jobs):
    await accepted(batches, [1, 2, 3])
    await fed(batches)
    assert await jobs.queued_images() == 0
    assert await batches.room() == 3


async def test_a_batch_ends_once_and_tells_of_it_in_the_same_transaction(batches, jobs, database, clock):
    await accepted(batches, [1, 2], notify=Notify("http://x/", "http://base"))
    await fed(batches)
    assert await batches.finish() == ()
    await ended(jobs)
    clock.advance(5)
    others = [SqlBatches(database, clock, compose_batch) for _ in range(4)]
    told = [each for some in await asyncio.gather(*(each.finish() for each in others)) for each in some]
    assert [(each.id, each.state, each.finished) for each in told] == [("b", BatchState.FINISHED, 105.0)]
    async with database.reading() as connection:
        (message,) = (await connection.execute(select(WEBHOOKS))).all()
        assert (await connection.execute(select(func.count()).select_from(BATCH_INPUTS))).scalar_one() == 0
    assert (message.job_id, message.url, message.tenant) == ("b", "http://x/", "t")
    body = json.loads(message.body)
    assert body["type"] == "batch.finished"
    assert body["data"]["counts"] == {"succeeded": 2, "failed": 0, "cancelled": 0, "expired": 0}
    assert body["data"]["results"] == "http://base/api/batches/b/results"


async def test_results_outlive_the_jobs(batches, jobs, clock):
    await accepted(batches, [1, 2])
    await fed(batches)
    await ended(jobs)
    await batches.finish()
    clock.advance(10)
    assert len(await jobs.forget(105.0)) == 2
    assert [each.ended.assets for each in await batches.results("b", 0, 9)] == [(ASSET,), (ASSET,)]


async def test_a_cancelled_batch_begins_nothing_any_more(batches, jobs):
    await accepted(batches, [1, 2, 3])
    found = await batches.waiting("b", 9)
    await batches.enqueue("b", {1: job(found[0])})
    await batches.cancel("b")
    await batches.cancel("b")
    assert (await batches.get("b")).state is BatchState.CANCELLING
    assert await batches.enqueue("b", {each.number: job(each) for each in found}) == (), "it was too late"
    assert await batches.cancelling() == ("b-1",)
    assert await batches.finish() == ()
    await jobs.happen("b-1", CancelAsked())
    assert await batches.cancelling() == ()
    (over,) = await batches.finish()
    assert over.state is BatchState.CANCELLED
    results = await batches.results("b", 0, 9)
    assert [(each.state, each.ended.job_id) for each in results] == [
        (LineState.CANCELLED, "b-1"),
        (LineState.CANCELLED, None),
        (LineState.CANCELLED, None),
    ]
    assert results[2].ended.error.code == "cancelled"


async def test_a_line_that_cannot_be_made_ready_fails(batches):
    await accepted(batches, [1])
    assert await batches.enqueue("b", {1: EngineFailure("gone").report()}) == ()
    (result,) = await batches.results("b", 0, 9)
    assert (result.state, result.ended.error.message, result.ended.job_id) == (LineState.FAILED, "gone", None)


async def test_pages_and_bounds_are_each_tenant_s(batches, jobs):
    for index in range(5):
        await accepted(batches, [1], batch=f"b{index}", created=float(index // 2))
    await accepted(batches, [1], batch="theirs", tenant="other")
    assert await batches.open("t") == 5
    seen, after = [], None
    while True:
        page = await batches.page("t", after, 2)
        seen += [each.id for each in page.batches]
        if not page.more:
            break
        after = (page.batches[-1].created, page.batches[-1].id)
    assert seen == ["b4", "b3", "b2", "b1", "b0"]


async def test_what_is_deleted_is_shown_to_nobody_and_goes_line_by_line(batches, jobs, clock):
    await accepted(batches, [1, 2, 3])
    await fed(batches)
    await ended(jobs)
    await batches.finish()
    assert await batches.deleted() is None
    assert await batches.delete("b")
    assert (await batches.get("b"), (await batches.page("t", None, 9)).batches) == (None, ())
    clock.advance(50)
    assert await batches.forget(clock.time(), 0.0) == 0, "its lines are still needed"
    batch = await batches.deleted()
    assert (batch.id, batch.state) == ("b", BatchState.DELETED)
    await batches.drop(batch, 2)
    assert [each.number for each in await batches.results("b", 0, 9)] == [3]
    assert await batches.deleted() == batch
    await batches.drop(batch, 3)
    assert (await batches.deleted(), await batches.delete("b")) == (None, False)


async def test_only_what_is_over_is_deleted_and_what_is_old_is_forgotten(batches, jobs, database, clock):
    await accepted(batches, [1])
    assert not await batches.delete("b")
    await fed(batches)
    await ended(jobs)
    await batches.finish()
    assert await batches.forget(100.0, 100.0) == 0
    clock.advance(50)
    assert await batches.forget(149.0, 0.0) == 1
    assert await batches.get("b") is None
    async with database.reading() as connection:
        assert (await connection.execute(select(func.count()).select_from(BATCH_LINES))).scalar_one() == 0
    # One whose file stopped coming.
    await batches.begin(Batch("half", "t", BatchState.RECEIVING, 1.0))
    assert await batches.forget(0.0, 150.0) == 0
    clock.advance(1)
    assert await batches.forget(0.0, 150.5) == 1
    assert not await batches.delete("half")
