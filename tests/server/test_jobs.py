import asyncio
import io
from contextlib import asynccontextmanager

import msgspec
import pytest
from PIL import Image

from pipelines.contract.errors import EngineFailure, InvalidRequest, Overloaded, ShuttingDown
from pipelines.contract.messages import Progress
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Priority, Sampling
from server.access.limits import Allowances
from server.catalog.allowances import Limits
from server.db.database import Database, beside
from server.db.jobs import SqlJobs
from server.db.migrating import migrate
from server.db.quotas import SqlQuotas
from server.db.webhooks import Outbox
from server.domain.asset import Delivery, Format
from server.domain.clock import SetClock
from server.domain.failures import RateLimited
from server.domain.job import JobState, Order
from server.gateway.describing import parameters
from server.gateway.finish import Gateway
from server.jobs.admission import Admission
from server.jobs.runner import Pace
from server.jobs.service import JobService
from server.providers.fake import FunctionProvider, flat
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics
from tests.doubles.stores import stored_in


def order(job_id="a", images=1, **fields):
    request = ImageRequest(
        id=job_id,
        model="m",
        prompt="p",
        width=8,
        height=8,
        seeds=tuple(range(images)),
        sampling=Sampling("euler", 4, 1.0),
        **fields,
    )
    return Order(request, Delivery(Format.PNG))


async def told(job):
    return job.id.encode()


class Refusing:
    """A repository that takes no ends for a while."""

    def __init__(self, repository, times):
        self._repository, self.left = repository, times

    def __getattr__(self, name):
        return getattr(self._repository, name)

    async def happen(self, job_id, happening, *, owner=None):
        if owner is not None and self.left:
            self.left -= 1
            raise OSError("disk full")
        return await self._repository.happen(job_id, happening, owner=owner)


class Bench:
    """A job service over a provider made of a function, with everything in reach."""

    def __init__(self, folder, function=None, *, limit=4, queue_most=100, window=64, refused_ends=0, limits=None):
        self.clock, self.metrics, self.limits = SetClock(), Metrics(), limits
        self.database = Database(beside(folder))
        self.store = stored_in(folder / "outputs", self.database, self.clock)
        self.repository = Refusing(SqlJobs(self.database, self.clock, Outbox(told)), refused_ends)
        self.admission = Admission(limit, self.metrics)
        gateway = Gateway(FunctionProvider(function, wait=7.0), self.store, self.metrics)
        self.jobs = JobService(
            gateway,
            self.repository,
            self.admission,
            None
            if limits is None
            else Allowances(lambda _tenant: self.limits, SqlQuotas(self.database), self.clock, self.metrics),
            clock=self.clock,
            metrics=self.metrics,
            log=silent(),
            queue_most=queue_most,
            pace=Pace(window=window),
        )

    @asynccontextmanager
    async def running(self):
        """The database stays open: what it remembers is looked at afterwards, and `close` is called by the fixture."""
        await migrate(self.database)
        async with self.jobs.running() as jobs:
            yield jobs


@pytest.fixture
async def bench(tmp_path):
    """Makes benches, and closes them."""
    made = []

    def make(function=None, **options):
        made.append(Bench(tmp_path, function, **options))
        return made[-1]

    yield make
    for each in made:
        await each.database.close()


class Gate:
    """A provider function that waits to be opened."""

    def __init__(self):
        self.open, self.entered, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, request, _call):
        self.entered.set()
        try:
            await self.open.wait()
        finally:
            self.left.set()
        return flat(request)


async def test_a_file_is_as_small_as_its_caller_wants_it(bench):
    own = bench()
    small = msgspec.structs.replace(order(), delivery=Delivery(width=4))
    async with own.running() as jobs:
        job = await jobs.wait(await jobs.submit(small))
    (asset,) = job.assets
    assert (asset.width, asset.height) == (4, 4)
    assert Image.open(io.BytesIO(await own.store.get(asset.name))).size == (4, 4)


async def test_a_job_ends_in_stored_assets(bench):
    own = bench()
    async with own.running() as jobs:
        job = await jobs.wait(await jobs.submit(order(images=2)))
    assert job.state is JobState.SUCCEEDED
    assert [asset.seed for asset in job.assets] == [0, 1]
    assert (await own.store.get(job.assets[0].name))[:4] == b"\x89PNG"
    assert own.admission.images == 0


async def test_progress_reaches_the_listener(bench):
    async def function(request, call):
        call.emit(Progress(request.id, 0, 1, 4))
        return flat(request)

    heard = []
    async with bench(function).running() as jobs:
        await jobs.wait(await jobs.submit(order(), heard.append))
    assert heard == [Progress("a", 0, 1, 4)]


async def test_a_full_queue_refuses_before_any_work(bench):
    gate = Gate()
    own = bench(gate, limit=4)
    async with own.running() as jobs:
        job = await jobs.submit(order("a", images=3))
        with pytest.raises(Overloaded) as caught:
            await jobs.submit(order("b", images=2))
        assert caught.value.retry_after == 7.0
        await jobs.submit(order("c", images=1))
        assert own.admission.images == 4
        gate.open.set()
        await jobs.wait(job)
        await jobs.idle()
        assert own.admission.images == 0
    assert await own.repository.get("b") is None
    assert b'aquatint_jobs_refused_total{code="overloaded"} 1.0' in own.metrics.render()


async def test_bulk_work_keeps_nobody_out(bench):
    gate = Gate()
    own = bench(gate, limit=4, limits=Limits(concurrent_images=4))
    async with own.running() as jobs:
        for name in ("x", "y"):
            await jobs.enqueue(msgspec.structs.replace(order(name, images=3), priority=Priority.BULK))
        while own.admission.images < 6:  # noqa: ASYNC110 - the runner tells nobody of its claims
            await asyncio.sleep(0.01)
        job = await jobs.submit(order("a", images=4))
        assert own.admission.images == 10
        with pytest.raises(RateLimited):
            await jobs.submit(order("b"))
        own.limits = Limits()
        with pytest.raises(Overloaded, match="4 images"):
            await jobs.submit(order("b"))
        gate.open.set()
        await jobs.wait(job)
        await asyncio.wait_for(jobs.idle(), 60)
        assert own.admission.images == 0


async def test_an_idle_server_takes_even_more_than_its_limit(bench):
    async with bench(limit=1).running() as jobs:
        assert (await jobs.wait(await jobs.submit(order(images=3)))).state is JobState.SUCCEEDED


@pytest.mark.parametrize(("wait", "told"), [(0.0, 1.0), (30.0, 30.0), (1e9, 120.0)])
def test_retry_after_stays_where_clients_obey_it(wait, told):
    admission = Admission(1, Metrics())
    admission.enter(1, 0)
    with pytest.raises(Overloaded) as caught:
        admission.enter(1, wait)
    assert caught.value.retry_after == told


async def test_cancel_reaches_the_provider(bench):
    gate = Gate()
    own = bench(gate)
    async with own.running() as jobs:
        job = await jobs.submit(order())
        await gate.entered.wait()
        jobs.cancel(job.id)
        ended = await jobs.wait(job)
    assert gate.left.is_set()
    assert (ended.state, ended.error.code) == (JobState.CANCELLED, "cancelled")
    assert own.admission.images == 0


async def test_cancelled_before_it_began_is_cancelled_too(bench):
    gate = Gate()
    async with bench(gate).running() as jobs:
        job = await jobs.submit(order())
        jobs.cancel(job.id)
        assert (await jobs.wait(job)).state is JobState.CANCELLED
        await jobs.idle()
    assert not gate.entered.is_set()


async def test_cancelling_the_waiter_leaves_the_job(bench):
    gate = Gate()
    async with bench(gate).running() as jobs:
        job = await jobs.submit(order())
        waiter = asyncio.create_task(jobs.wait(job))
        await gate.entered.wait()
        waiter.cancel()
        await asyncio.wait([waiter])
        gate.open.set()
        assert (await jobs.wait(job)).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineFailure("broken"), "engine_failure"),
        (InvalidRequest("no"), "invalid_request"),
        (ValueError("secret"), "engine_failure"),
    ],
)
async def test_errors_end_one_job_only(bench, error, code):
    async def function(request, call):
        if request.id == "bad":
            raise error
        return flat(request)

    async with bench(function).running() as jobs:
        bad, good = await jobs.submit(order("bad")), await jobs.submit(order("good"))
        ended = await jobs.wait(bad)
        assert (await jobs.wait(good)).state is JobState.SUCCEEDED
    assert (ended.state, ended.error.code) == (JobState.FAILED, code)
    assert "secret" not in ended.error.message


async def test_a_closed_service_refuses_and_lets_the_rest_finish(bench):
    gate = Gate()
    async with bench(gate).running() as jobs:
        job = await jobs.submit(order())
        jobs.close()
        with pytest.raises(ShuttingDown):
            await jobs.submit(order("late"))
        gate.open.set()
        await jobs.idle()
        assert (await jobs.wait(job)).state is JobState.SUCCEEDED


async def test_the_end_cuts_off_what_still_runs(bench):
    gate = Gate()
    own = bench(gate)
    async with own.running() as jobs:
        job = await jobs.submit(order())
        await gate.entered.wait()
    assert (await own.repository.get(job.id)).error.code == "shutting_down"


async def test_finished_jobs_are_remembered_without_their_input(bench):
    own = bench()
    async with own.running() as jobs:
        job = await jobs.wait(await jobs.submit(order("a", init=Init(Picture(8, 8, "RGB", bytes(192))))))
    assert job == await own.repository.get("a")
    assert len(job.order.request.init.picture.data) == 1


async def test_what_is_queued_is_run_and_watched(bench):
    async def function(request, call):
        call.emit(Progress(request.id, 0, 1, 4))
        return flat(request)

    own = bench(function)
    async with own.running() as jobs:
        job = await jobs.enqueue(order("a", images=2))
        assert (job.state, job.durable) == (JobState.QUEUED, True)
        seen = [moment async for moment in jobs.follow("a") if moment]
    assert [moment.kind for moment in seen] == ["queued", "started", "progress", "finished"]
    assert [moment.number for moment in seen] == [1, 2, 3, 4]
    assert seen[-1].job == await own.repository.get("a")
    assert len(seen[-1].job.assets) == 2
    assert [moment.kind async for moment in jobs.follow("a", after=2) if moment] == ["progress", "finished"]
    assert own.admission.images == 0


async def test_more_than_the_queue_holds_is_refused(bench):
    gate = Gate()
    own = bench(gate, queue_most=3, window=1)
    async with own.running() as jobs:
        await jobs.enqueue(order("a", images=1))
        await gate.entered.wait()
        await jobs.enqueue(order("b", images=3))
        with pytest.raises(Overloaded, match="3 images"):
            await jobs.enqueue(order("c"))
        place = await jobs.place(await jobs.get("b"))
        assert (place.ahead, place.begins) == (0, own.clock.time() + 7.0)
        gate.open.set()
        async for _ in jobs.follow("b"):
            pass
        assert (await jobs.get("b")).state is JobState.SUCCEEDED


async def test_bulk_jobs_take_no_room_from_others_and_only_what_those_leave(bench):
    gate, begun, changed = asyncio.Event(), [], asyncio.Condition()

    async def function(request, _call):
        async with changed:
            begun.append(request.id)
            changed.notify_all()
        await gate.wait()
        return flat(request)

    async def begins(*names):
        async with changed:
            await asyncio.wait_for(changed.wait_for(lambda: set(begun) == set(names)), 60)

    def bulk(name):
        return msgspec.structs.replace(order(name), priority=Priority.BULK)

    own = bench(function, window=2)
    async with own.running() as jobs:
        for index in range(3):
            await jobs.enqueue(bulk(f"bulk{index}"))
        await begins("bulk0", "bulk1")
        await jobs.enqueue(order("one"))
        await begins("bulk0", "bulk1", "one")
        await jobs.enqueue(order("two"))
        await begins("bulk0", "bulk1", "one", "two")
        await jobs.enqueue(order("three"))
        gate.set()
        await begins("bulk0", "bulk1", "bulk2", "one", "two", "three")
        await asyncio.wait_for(jobs.idle(), 60)


async def test_what_is_queued_outlives_the_server(bench):
    gate = Gate()
    first = bench(gate, window=1)
    async with first.running() as jobs:
        await jobs.enqueue(order("a"))
        await jobs.enqueue(order("b"))
        await gate.entered.wait()
    assert [(await first.repository.get(name)).state for name in "ab"] == [JobState.QUEUED, JobState.QUEUED]
    second = bench()
    async with second.running() as jobs:
        for name in "ab":
            async for _ in jobs.follow(name):
                pass
    ended = [await second.repository.get(name) for name in "ab"]
    assert [(job.state, job.attempts) for job in ended] == [(JobState.SUCCEEDED, 2), (JobState.SUCCEEDED, 1)]


async def test_a_queued_job_is_cancelled_wherever_it_is(bench):
    gate = Gate()
    own = bench(gate, window=1)
    async with own.running() as jobs:
        await jobs.enqueue(order("runs"))
        await jobs.enqueue(order("waits"))
        await gate.entered.wait()
        last = None
        assert (await jobs.revoke("waits")).state is JobState.CANCELLED
        await jobs.revoke("runs")
        async for moment in jobs.follow("runs"):
            last = moment or last
        assert last.job.state is JobState.CANCELLED
        assert await jobs.revoke("nobody") is None
        assert await jobs.delete("runs")
        assert await jobs.get("runs") is None


async def test_cancelling_twice_tells_once_and_is_written_down_before_anything_stops(bench):
    gate = Gate()
    own = bench(gate)
    async with own.running() as jobs:
        await jobs.enqueue(order("a"))
        await gate.entered.wait()
        asked = await jobs.revoke("a")
        assert (asked.state, asked.cancel_asked) == (JobState.RUNNING, True)
        kinds = [moment.kind async for moment in jobs.follow("a") if moment]
        assert (await jobs.revoke("a")).state is JobState.CANCELLED
        assert [moment.kind async for moment in jobs.follow("a") if moment] == kinds
    assert kinds.count("finished") == 1


@pytest.mark.parametrize(("times", "state"), [(2, JobState.SUCCEEDED), (99, JobState.RUNNING)])
async def test_a_database_that_takes_no_end_ends_nobody_else(bench, times, state):
    gate = Gate()
    own = bench(gate, refused_ends=times)
    async with own.running() as jobs:
        job = await jobs.enqueue(order("a"))
        await gate.entered.wait()
        gate.open.set()
        await jobs.idle()
        assert (await jobs.get(job.id)).state is state
        own.repository.left = 0
        assert (await jobs.wait(await jobs.submit(order("b")))).state is JobState.SUCCEEDED


async def test_a_job_that_is_stopped_before_its_first_step_ends_too(bench):
    own = bench(Gate())
    async with own.running() as jobs:
        job = await jobs.submit(order())
        jobs.cancel(job.id)
        assert (await jobs.wait(job)).state is JobState.CANCELLED
    assert (await own.repository.get(job.id)).state is JobState.CANCELLED


async def test_a_server_that_fell_silent_does_not_end_its_jobs(bench):
    gate = Gate()
    silent_one = bench(gate)
    async with silent_one.running() as jobs:
        await jobs.enqueue(order("a"))
        await gate.entered.wait()
        other = bench()
        await other.repository.sweep(everybody=True)
        (taken,) = await other.repository.claim("other", 2e9, 5)
        gate.open.set()
        await jobs.idle()
        kept = await jobs.get("a")
        assert (taken.attempts, kept.state, kept.owner) == (2, JobState.RUNNING, "other")


async def test_a_job_that_is_lost_and_taken_again_is_held_for_as_long_as_it_runs(bench):
    gate, stuck, calls = Gate(), asyncio.Event(), []

    async def function(request, call):
        calls.append(call.attempt)
        try:
            return await gate(request, call)
        finally:
            if call.attempt == 1:
                await stuck.wait()  # it takes a while to stop

    own = bench(function)
    async with own.running() as jobs:
        await jobs.enqueue(order("a"))
        await gate.entered.wait()
        await own.repository.sweep(everybody=True)
        jobs.arrived(await jobs.get("a"))
        first = jobs._runner.task("a")
        while jobs._runner.task("a") is first:  # noqa: ASYNC110 - the runner tells nobody of its claims
            await asyncio.sleep(0.01)
        stuck.set()
        await asyncio.wait_for(asyncio.wait([first]), 60)
        assert jobs._runner.task("a") is not None, "the end of the one is not that of the other"
        gate.open.set()
        await asyncio.wait_for(jobs.idle(), 60)
        done = await jobs.get("a")
        assert (done.state, done.attempts, calls) == (JobState.SUCCEEDED, 2, [1, 2])
    assert own.admission.images == 0


def test_parameters_read_like_those_of_other_tools():
    request = msgspec.structs.replace(order().request, negative_prompt="blur", clip_skip=1)
    assert parameters(request, 9) == (
        "p\nNegative prompt: blur\n"
        "Steps: 4, Sampler: euler, CFG scale: 1, Seed: 9, Size: 8x8, Model: m, Clip skip: 2, Version: aquatint"
    )


async def test_requests_that_come_together_are_company_before_they_are_at_work(bench):
    gate = Gate()
    own = bench(gate, limit=100, limits=Limits(concurrent_images=4, images_per_day=100))
    async with own.running() as jobs:
        entered = await asyncio.gather(*(jobs.submit(order(f"j{n}", images=2)) for n in range(6)), return_exceptions=True)
        started = [job for job in entered if not isinstance(job, BaseException)]
        assert (len(started), sum(isinstance(job, RateLimited) for job in entered)) == (2, 4)
        gate.open.set()
        for job in started:
            await jobs.wait(job)
        assert (await jobs.wait(await jobs.submit(order("later", images=4)))).state is JobState.SUCCEEDED
    assert jobs._entering == {}
