"""What goes wrong with one batch is no other's affair."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import msgspec
import pytest

from pipelines.contract.errors import BadPicture
from pipelines.contract.request import ImageRequest, Priority, Sampling
from server.db.batches import LineEnds, SqlBatches
from server.db.database import Database, beside
from server.db.jobs import SqlJobs
from server.db.migrating import migrate
from server.db.webhooks import Outbox
from server.domain.batch import Batch, BatchState, Line, LineState, Wanted
from server.domain.clock import SystemClock
from server.domain.job import LineOf, Order
from server.gateway.finish import Gateway
from server.jobs.admission import Admission
from server.jobs.feeder import Feed, Feeder
from server.jobs.service import JobService
from server.jobs.setbacks import Setbacks
from server.jobs.webhooks import compose_batch
from server.providers.fake import FunctionProvider
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics
from tests.doubles.stores import stored_in


async def told(job):
    return job.id.encode()


def line(batch, number):
    request = ImageRequest(f"{batch}-{number}", "m", "p", 8, 8, (number,), Sampling("euler", 4, 1.0), priority=Priority.BULK)
    return Line(number, f"c{number}", Wanted(Order(request, tenant="t", priority=Priority.BULK, line=LineOf(batch, number))))


async def accepted(batches, name, lines):
    new = Batch(name, "t", BatchState.RECEIVING, 1.0)
    await batches.begin(new)
    await batches.receive(new, [line(name, number) for number in range(1, lines + 1)], {})
    await batches.accept(msgspec.structs.replace(new, state=BatchState.RUNNING, lines=lines, images=lines))


class Stumbling:
    """A repository that cannot say what waits in one batch, nor which jobs are to be stopped."""

    def __init__(self, batches, name):
        self._batches, self._name = batches, name

    def __getattr__(self, name):
        return getattr(self._batches, name)

    async def waiting(self, batch_id, images):
        if batch_id == self._name:
            raise ValueError("a row that cannot be read")
        return await self._batches.waiting(batch_id, images)

    async def cancelling(self):
        raise OSError("away")


async def states(batches, name):
    return [(each.state, each.ended.error and each.ended.error.code) for each in await batches.results(name, 0, 99)]


async def plain(_batch_id, wanted):
    return wanted.wanted.order


@pytest.fixture
async def world(tmp_path):
    """A repository of batches, and what feeds it until that many batches are over."""
    database, clock, metrics = Database(beside(tmp_path)), SystemClock(), Metrics()
    await migrate(database)
    batches = SqlBatches(database, clock, compose_batch)
    store = stored_in(tmp_path / "outputs", database, clock)

    @asynccontextmanager
    async def feeding(refill=plain, repository=batches, discard=store.discard, ended=lambda: None):
        jobs = JobService(
            Gateway(FunctionProvider(), store, metrics),
            SqlJobs(database, clock, LineEnds(Outbox(told))),
            Admission(100, metrics),
            clock=clock,
            metrics=metrics,
            log=silent(),
            ended=lambda _job: feeder.look(),
        )
        brief = Feed(poll=0.02, pause=0.0, setback=0.01, patience=3, going=4)
        feeder = Feeder(repository, jobs, refill, ended=ended, discard=discard, clock=clock, log=silent(), feed=brief)
        async with jobs.running(), feeder.running():
            yield jobs

    async def feed(refill, over, repository=batches):
        ended, left = asyncio.Event(), [over]

        def one():
            left[0] -= 1
            if not left[0]:
                ended.set()

        async with feeding(refill, repository, ended=one):
            await asyncio.wait_for(ended.wait(), 60)

    yield SimpleNamespace(batches=batches, feed=feed, feeding=feeding, store=store)
    await database.close()


async def test_a_batch_that_cannot_be_read_and_chores_that_fail_stop_nobody_else(world):
    batches, feed = world.batches, world.feed
    for name in ("broken", "one", "two"):
        await accepted(batches, name, 5)
    await feed(plain, 2, Stumbling(batches, "broken"))
    for name in ("one", "two"):
        assert await states(batches, name) == [(LineState.SUCCEEDED, None)] * 5
    assert (await batches.get("broken")).state is BatchState.RUNNING, "it is tried again, for ever"


async def test_a_line_that_is_refused_fails_and_one_that_breaks_is_given_up_after_a_while(world):
    batches, feed = world.batches, world.feed
    for name in ("odd", "even"):
        await accepted(batches, name, 4)
    tries = []

    async def refill(batch_id, wanted):
        if batch_id == "odd" and wanted.number == 2:
            raise BadPicture("no", param="image")
        if batch_id == "odd" and wanted.number == 3:
            tries.append(wanted.number)
            raise ValueError("a mistake")
        return wanted.wanted.order

    await feed(refill, 2)
    assert await states(batches, "even") == [(LineState.SUCCEEDED, None)] * 4
    done = (LineState.SUCCEEDED, None)
    assert await states(batches, "odd") == [
        done,
        (LineState.FAILED, "bad_picture"),
        (LineState.FAILED, "engine_failure"),
        done,
    ]
    assert len(tries) == 4, "three setbacks, and then it is given up"


def test_setbacks_are_counted_for_each_and_bounded():
    setbacks = Setbacks(10.0, 2)
    setbacks.note("a", 0.0)
    assert (setbacks.waits("a", 9.9), setbacks.waits("a", 10.0), setbacks.waits("b", 0.0)) == (True, False, False)
    assert not setbacks.hopeless("a")
    setbacks.note("a", 10.0)
    assert setbacks.hopeless("a")
    setbacks.forget("a")
    assert (setbacks.waits("a", 10.0), setbacks.hopeless("a"), len(setbacks)) == (False, False, 0)
    for index in range(1500):
        setbacks.note(str(index), 0.0)
    assert len(setbacks) == 1000


async def test_a_deleted_batch_takes_its_jobs_and_pictures_along_whoever_dies_meanwhile(world):
    batches, store = world.batches, world.store
    for name in ("gone", "kept"):
        await accepted(batches, name, 10)
    await world.feed(plain, 2)
    gone, kept = [await batches.results(name, 0, 99) for name in ("gone", "kept")]
    dead, seen = asyncio.Event(), []

    async def dying(tenant, job_id):
        seen.append(job_id)
        if len(seen) == 7:
            dead.set()
        if len(seen) >= 7:
            raise OSError("the server is gone")
        return await store.discard(tenant, job_id)

    assert await batches.delete("gone")
    assert await batches.get("gone") is None
    assert not await batches.delete("gone")
    async with world.feeding(discard=dying):
        await asyncio.wait_for(dead.wait(), 60)
    assert [await store.facts(each.ended.assets[0].name) is None for each in gone] == [True] * 6 + [False] * 4
    assert (await batches.deleted()).id == "gone"
    async with world.feeding() as jobs:
        while await batches.deleted() is not None:  # noqa: ASYNC110 - the feeder tells nobody
            await asyncio.sleep(0.01)
        for each, left in [*((line, False) for line in gone), *((line, True) for line in kept)]:
            assert (await store.facts(each.ended.assets[0].name) is not None) is left
            assert (await jobs.get(each.ended.job_id) is not None) is left
    assert await batches.results("gone", 0, 99) == ()
    assert len(await batches.results("kept", 0, 99)) == 10
