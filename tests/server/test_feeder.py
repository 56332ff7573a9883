"""What goes wrong with one batch is no other's affair."""

import asyncio

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
    return Line(number, f"c{number}", Wanted(Order(request, priority=Priority.BULK, line=LineOf(batch, number))))


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


@pytest.fixture
async def world(tmp_path):
    """A repository of batches, and what feeds it until that many batches are over."""
    database, clock, metrics = Database(beside(tmp_path)), SystemClock(), Metrics()
    await migrate(database)
    batches = SqlBatches(database, clock, compose_batch)
    store = stored_in(tmp_path / "outputs", database, clock)

    async def feed(refill, over, repository=batches):
        ended, left = asyncio.Event(), [over]

        def one():
            left[0] -= 1
            if not left[0]:
                ended.set()

        jobs = JobService(
            Gateway(FunctionProvider(), store, metrics),
            SqlJobs(database, clock, LineEnds(Outbox(told))),
            Admission(100, metrics),
            clock=clock,
            metrics=metrics,
            log=silent(),
            ended=lambda _job: feeder.look(),
        )
        brief = Feed(poll=0.02, pause=0.0, setback=0.01, patience=3)
        feeder = Feeder(repository, jobs, refill, ended=one, clock=clock, log=silent(), feed=brief)
        async with jobs.running(), feeder.running():
            await asyncio.wait_for(ended.wait(), 60)

    yield batches, feed
    await database.close()


async def plain(_batch_id, wanted):
    return wanted.wanted.order


async def test_a_batch_that_cannot_be_read_and_chores_that_fail_stop_nobody_else(world):
    batches, feed = world
    for name in ("broken", "one", "two"):
        await accepted(batches, name, 5)
    await feed(plain, 2, Stumbling(batches, "broken"))
    for name in ("one", "two"):
        assert await states(batches, name) == [(LineState.SUCCEEDED, None)] * 5
    assert (await batches.get("broken")).state is BatchState.RUNNING, "it is tried again, for ever"


async def test_a_line_that_is_refused_fails_and_one_that_breaks_is_given_up_after_a_while(world):
    batches, feed = world
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
