"""The repository of jobs, on both databases."""

import asyncio

import msgspec
import pytest

from pipelines.contract.adapters import ControlCard, LoraCard
from pipelines.contract.control import ControlUse, LoraUse
from pipelines.contract.errors import EngineFailure
from pipelines.contract.family import Family
from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Priority, Sampling
from server.db.jobs import SqlJobs
from server.db.webhooks import Outbox
from server.domain.asset import Asset, Format
from server.domain.clock import SetClock
from server.domain.job import Job, JobState, Order
from server.domain.ports.jobs import Ahead, JobFilter
from server.domain.transitions import CancelAsked, Cancelled, Dropped, Failed, IllegalTransition, Succeeded

STATS = RunStats(0.1, 0.2, 0.3, 0.4, 20, 3.5)
ASSET = Asset("a.png", Format.PNG, 8, 8, 1, 99)
PICTURE = Picture(64, 64, "RGB", bytes(range(256)) * 48)


def job(name, *, created=1.0, durable=True, tenant="t", model="m", priority=Priority.NORMAL, **fields):
    request = ImageRequest(
        id=name, model=model, prompt="p", width=8, height=8, seeds=(1,), sampling=Sampling("euler", 4, 1.0), **fields
    )
    order = Order(request, tenant=tenant, priority=priority)
    return Job(name, order, JobState.QUEUED, created, durable=durable)


@pytest.fixture
def clock():
    return SetClock(100.0)


async def told(job):
    return job.id.encode()


@pytest.fixture
def jobs(database, clock):
    return SqlJobs(database, clock, Outbox(told))


async def test_what_is_added_is_there_without_its_pictures_and_claimed_with_them(jobs):
    lora = LoraUse(LoraCard("l", "file:/l.safetensors", Family.SD), 0.7)
    control = ControlUse(ControlCard("c", "dir:/c", Family.SD), PICTURE)
    asked = job("a", init=Init(PICTURE, mask=Picture(64, 64, "L", bytes(4096))), loras=(lora,), controls=(control,))
    await jobs.add(asked)
    kept = await jobs.get("a")
    assert kept == asked.without_input()
    assert len(kept.order.request.init.picture.data) == 1
    assert kept.order.request.loras == (lora,)
    (claimed,) = await jobs.claim("me", 110.0, 5)
    assert claimed.order == asked.order
    assert (claimed.state, claimed.owner, claimed.lease, claimed.started, claimed.attempts) == (
        JobState.RUNNING,
        "me",
        110.0,
        100.0,
        1,
    )
    assert await jobs.get("nobody") is None


async def test_claims_are_by_urgency_then_age(jobs):
    await jobs.add(job("early", created=2.0))
    await jobs.add(job("bulk", created=1.0, priority=Priority.BULK))
    await jobs.add(job("late", created=3.0))
    await jobs.add(job("now", created=4.0, priority=Priority.INTERACTIVE))
    assert await jobs.ahead(await jobs.get("bulk")) == Ahead(3, 3 * 8 * 8 * 4)
    assert await jobs.queued_images() == 4
    assert [each.id for each in await jobs.claim("me", 110.0, 3)] == ["now", "early", "late"]
    assert [each.id for each in await jobs.claim("me", 110.0, 3)] == ["bulk"]
    assert await jobs.claim("me", 110.0, 3) == ()


async def test_a_claim_is_bounded_by_images_and_never_empty(jobs):
    for index, images in enumerate((3, 2, 4, 1)):
        many = job(f"j{index}", created=float(index))
        seeds = msgspec.structs.replace(many.order.request, seeds=tuple(range(images)))
        await jobs.add(msgspec.structs.replace(many, order=msgspec.structs.replace(many.order, request=seeds)))
    assert [each.id for each in await jobs.claim("me", 110.0, 6)] == ["j0", "j1"]
    assert [each.id for each in await jobs.claim("me", 110.0, 2)] == ["j2"]
    assert [each.id for each in await jobs.claim("me", 110.0, 2)] == ["j3"]


async def test_nobody_gets_what_another_has(jobs):
    for index in range(40):
        await jobs.add(job(f"j{index:02}", created=float(index)))

    async def take(owner):
        mine = []
        while found := await jobs.claim(owner, 110.0, 3):
            mine += [each.id for each in found]
        return mine

    taken = await asyncio.gather(*(take(f"server{index}") for index in range(4)))
    assert sorted(name for mine in taken for name in mine) == [f"j{index:02}" for index in range(40)]


async def test_only_the_owner_ends_a_job(jobs):
    await jobs.add(job("a"))
    await jobs.claim("me", 110.0, 1)
    assert await jobs.happen("a", Succeeded((ASSET,), STATS), owner="other") is None
    done = await jobs.happen("a", Succeeded((ASSET,), STATS), owner="me")
    assert (done.state, done.assets, done.stats, done.finished, done.owner) == (
        JobState.SUCCEEDED,
        (ASSET,),
        STATS,
        100.0,
        None,
    )
    assert await jobs.get("a") == done
    with pytest.raises(IllegalTransition):
        await jobs.happen("a", Failed(EngineFailure("x").report()))
    assert (await jobs.happen("a", CancelAsked())).state is JobState.SUCCEEDED
    assert await jobs.happen("nobody", CancelAsked()) is None


async def test_a_dead_servers_jobs_are_taken_over_and_it_cannot_end_them_any_more(jobs, clock):
    await jobs.add(job("kept", init=Init(PICTURE)))
    await jobs.add(job("waited", durable=False))
    await jobs.claim("dead", 105.0, 5)
    assert await jobs.sweep() == ()
    clock.advance(10)
    changed = {each.id: each.state for each in await jobs.sweep()}
    assert changed == {"kept": JobState.QUEUED, "waited": JobState.FAILED}
    (again,) = await jobs.claim("alive", 120.0, 5)
    assert (again.id, again.attempts, again.order.request.init.picture) == ("kept", 2, PICTURE)
    assert await jobs.happen("kept", Succeeded((ASSET,)), owner="dead") is None
    assert (await jobs.happen("kept", Succeeded((ASSET,)), owner="alive")).state is JobState.SUCCEEDED


async def test_where_all_others_are_dead_nobody_waits_for_leases(jobs):
    await jobs.add(job("a"))
    await jobs.claim("dead", 1e9, 1)
    assert [each.state for each in await jobs.sweep(everybody=True)] == [JobState.QUEUED]


async def test_a_lease_is_renewed_and_tells_of_cancelling(jobs, clock):
    for name in ("a", "b"):
        await jobs.add(job(name))
    await jobs.claim("me", 105.0, 5)
    asked = await jobs.happen("b", CancelAsked())
    assert (asked.state, asked.cancel_asked) == (JobState.RUNNING, True)
    assert await jobs.renew("me", ["a", "b", "c"], 130.0) == {"a": False, "b": True}
    assert await jobs.renew("other", ["a"], 130.0) == {}
    clock.advance(20)
    assert await jobs.sweep() == ()
    assert (await jobs.happen("b", Cancelled(), owner="me")).state is JobState.CANCELLED
    assert (await jobs.happen("a", Dropped(), owner="me")).state is JobState.QUEUED
    assert await jobs.renew("me", ["a", "b"], 140.0) == {}


async def test_what_is_late_in_the_queue_expires(jobs, clock):
    await jobs.add(job("late", deadline=101.0))
    clock.advance(5)
    (expired,) = await jobs.sweep()
    assert (expired.state, expired.error.code) == (JobState.EXPIRED, "deadline_exceeded")
    assert await jobs.claim("me", 110.0, 1) == ()


async def test_pages_go_back_in_time_and_never_to_other_tenants(jobs):
    for index in range(7):
        await jobs.add(job(f"j{index}", created=float(index // 2), tenant="mine", model="ab"[index % 2]))
    await jobs.add(job("theirs", tenant="other"))
    await jobs.happen("j3", CancelAsked())
    seen, after = [], None
    while True:
        page = await jobs.page(JobFilter("mine"), after, 3)
        seen += [each.id for each in page.jobs]
        if not page.more:
            break
        after = (page.jobs[-1].created, page.jobs[-1].id)
    assert seen == ["j6", "j5", "j4", "j3", "j2", "j1", "j0"]
    cancelled = await jobs.page(JobFilter("mine", states=(JobState.CANCELLED,)), None, 9)
    assert [each.id for each in cancelled.jobs] == ["j3"]
    some = await jobs.page(JobFilter("mine", model="a", since=1.0, until=3.0), None, 9)
    assert [each.id for each in some.jobs] == ["j4", "j2"]


async def test_only_what_is_over_is_deleted(jobs, clock):
    await jobs.add(job("a"))
    await jobs.add(job("b"))
    assert not await jobs.delete("a")
    await jobs.happen("a", CancelAsked())
    assert await jobs.delete("a")
    assert not await jobs.delete("a")
    await jobs.happen("b", CancelAsked())
    assert await jobs.forget(100.0) == ()
    clock.advance(1)
    assert [each.id for each in await jobs.forget(100.5)] == ["b"]
    assert await jobs.get("b") is None


async def test_what_is_over_keeps_no_pictures(jobs, database):
    from sqlalchemy import func, select

    from server.db.tables import INPUTS

    await jobs.add(job("a", init=Init(PICTURE)))
    async with database.reading() as connection:
        assert (await connection.execute(select(func.count()).select_from(INPUTS))).scalar_one() == 1
    await jobs.happen("a", CancelAsked())
    async with database.reading() as connection:
        assert (await connection.execute(select(func.count()).select_from(INPUTS))).scalar_one() == 0
