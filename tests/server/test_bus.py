"""What happens to jobs is remembered in bounded memory."""

import asyncio

import pytest

from pipelines.contract.messages import Progress
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from server.domain.job import Job, JobState, Order
from server.jobs.bus import Bus


def job(job_id, state=JobState.QUEUED):
    start = Init(Picture(8, 8, "RGB", bytes(192)))
    sampling = Sampling("euler", 4, 1.0)
    request = ImageRequest(id=job_id, model="m", prompt="p", width=8, height=8, seeds=(1,), sampling=sampling, init=start)
    return Job(job_id, Order(request), state, 1.0, durable=True)


async def waiting(bus, job_id, after=0):
    """Somebody who has begun to watch."""
    task = asyncio.create_task(bus.since(job_id, after, 60.0))
    await asyncio.sleep(0)
    return task


async def test_no_pictures_are_kept():
    bus = Bus()
    bus.queued(job("a"))
    bus.started(job("a"))
    moments = await bus.since("a", 0, 0.0)
    assert [moment.kind for moment in moments] == ["queued", "started"]
    assert [moment.job for moment in moments] == [job("a").without_input()] * 2


async def test_jobs_that_end_elsewhere_are_forgotten_and_those_that_are_watched_are_not():
    bus = Bus(most=3)
    for name in "abcd":
        bus.queued(job(name))
    assert [bus.remembers(name, 0) for name in "abcd"] == [False, True, True, True]
    watcher = await waiting(bus, "b", 1)
    bus.sink("c")(Progress("c", 0, 1, 4))
    for name in "ef":
        bus.queued(job(name))
    assert [bus.remembers(name, 0) for name in "bcdef"] == [True, False, False, True, True]
    bus.finished(job("b", JobState.SUCCEEDED))
    assert [moment.kind for moment in await watcher] == ["finished"]
    for name in "ghi":
        bus.queued(job(name))
    assert not bus.remembers("b", 0)


async def test_where_all_others_are_watched_the_latest_is_kept_too():
    bus = Bus(most=1)
    bus.queued(job("a"))
    watcher = await waiting(bus, "a", 1)
    bus.finished(job("b", JobState.SUCCEEDED))
    bus.finished(job("b", JobState.SUCCEEDED))
    assert [moment.number for moment in await bus.since("b", 0, 0.0)] == [1]
    bus.finished(job("a", JobState.SUCCEEDED))
    assert len(await watcher) == 1


async def test_who_hangs_up_leaves_nothing_behind():
    bus = Bus(most=1)
    bus.queued(job("a"))
    for name in ("a", "nobody"):
        watcher = await waiting(bus, name, 1)
        watcher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watcher
    bus.queued(job("b"))
    assert not bus.remembers("a", 0)
    assert len(bus._channels) == 1
