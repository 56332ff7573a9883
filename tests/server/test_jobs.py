import asyncio

import msgspec
import pytest

from pipelines.contract.errors import EngineFailure, InvalidRequest, Overloaded, ShuttingDown
from pipelines.contract.messages import Progress
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Sampling
from server.domain.asset import Delivery, Format
from server.domain.clock import SetClock
from server.domain.job import JobState, Order
from server.gateway.finish import Gateway, parameters
from server.jobs.admission import Admission
from server.jobs.memory import MemoryRepository
from server.jobs.service import JobService
from server.providers.fake import FunctionProvider, flat
from server.storage.blobs import FolderStore
from server.storage.files import Retention
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics


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


class Bench:
    """A job service over a provider made of a function, with everything in reach."""

    def __init__(self, folder, function=None, limit=4):
        self.clock, self.metrics = SetClock(), Metrics()
        self.store = FolderStore(folder, Retention(1e9, 1 << 30), self.clock)
        self.repository = MemoryRepository(self.clock, most=2, seconds=100)
        self.admission = Admission(limit, self.metrics)
        gateway = Gateway(FunctionProvider(function, wait=7.0), self.store, self.metrics)
        self.jobs = JobService(gateway, self.repository, self.admission, clock=self.clock, metrics=self.metrics, log=silent())


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


async def test_a_job_ends_in_stored_assets(tmp_path):
    bench = Bench(tmp_path)
    async with bench.jobs.running() as jobs:
        job = await jobs.wait(await jobs.submit(order(images=2)))
    assert job.state is JobState.SUCCEEDED
    assert [asset.seed for asset in job.assets] == [0, 1]
    assert (await bench.store.get(job.assets[0].name))[:4] == b"\x89PNG"
    assert bench.admission.images == 0


async def test_progress_reaches_the_listener(tmp_path):
    async def function(request, call):
        call.emit(Progress(request.id, 0, 1, 4))
        return flat(request)

    heard = []
    async with Bench(tmp_path, function).jobs.running() as jobs:
        await jobs.wait(await jobs.submit(order(), heard.append))
    assert heard == [Progress("a", 0, 1, 4)]


async def test_a_full_queue_refuses_before_any_work(tmp_path):
    gate = Gate()
    bench = Bench(tmp_path, gate, limit=4)
    async with bench.jobs.running() as jobs:
        job = await jobs.submit(order("a", images=3))
        with pytest.raises(Overloaded) as caught:
            await jobs.submit(order("b", images=2))
        assert caught.value.retry_after == 7.0
        await jobs.submit(order("c", images=1))
        assert bench.admission.images == 4
        gate.open.set()
        await jobs.wait(job)
        await jobs.idle()
        assert bench.admission.images == 0
    assert await bench.repository.get("b") is None
    assert b'aquatint_jobs_refused_total{code="overloaded"} 1.0' in bench.metrics.render()


async def test_an_idle_server_takes_even_more_than_its_limit(tmp_path):
    async with Bench(tmp_path, limit=1).jobs.running() as jobs:
        assert (await jobs.wait(await jobs.submit(order(images=3)))).state is JobState.SUCCEEDED


@pytest.mark.parametrize(("wait", "told"), [(0.0, 1.0), (30.0, 30.0), (1e9, 120.0)])
def test_retry_after_stays_where_clients_obey_it(wait, told):
    admission = Admission(1, Metrics())
    admission.enter(1, 0)
    with pytest.raises(Overloaded) as caught:
        admission.enter(1, wait)
    assert caught.value.retry_after == told


async def test_cancel_reaches_the_provider(tmp_path):
    gate = Gate()
    bench = Bench(tmp_path, gate)
    async with bench.jobs.running() as jobs:
        job = await jobs.submit(order())
        await gate.entered.wait()
        jobs.cancel(job.id)
        ended = await jobs.wait(job)
    assert gate.left.is_set()
    assert (ended.state, ended.error.code) == (JobState.CANCELLED, "cancelled")
    assert bench.admission.images == 0


async def test_cancelled_before_it_began_is_cancelled_too(tmp_path):
    gate = Gate()
    async with Bench(tmp_path, gate).jobs.running() as jobs:
        job = await jobs.submit(order())
        jobs.cancel(job.id)
        assert (await jobs.wait(job)).state is JobState.CANCELLED
        await jobs.idle()
    assert not gate.entered.is_set()


async def test_cancelling_the_waiter_leaves_the_job(tmp_path):
    gate = Gate()
    async with Bench(tmp_path, gate).jobs.running() as jobs:
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
async def test_errors_end_one_job_only(tmp_path, error, code):
    async def function(request, call):
        if request.id == "bad":
            raise error
        return flat(request)

    async with Bench(tmp_path, function).jobs.running() as jobs:
        bad, good = await jobs.submit(order("bad")), await jobs.submit(order("good"))
        ended = await jobs.wait(bad)
        assert (await jobs.wait(good)).state is JobState.SUCCEEDED
    assert (ended.state, ended.error.code) == (JobState.FAILED, code)
    assert "secret" not in ended.error.message


async def test_a_closed_service_refuses_and_lets_the_rest_finish(tmp_path):
    gate = Gate()
    async with Bench(tmp_path, gate).jobs.running() as jobs:
        job = await jobs.submit(order())
        jobs.close()
        with pytest.raises(ShuttingDown):
            await jobs.submit(order("late"))
        gate.open.set()
        await jobs.idle()
        assert (await jobs.wait(job)).state is JobState.SUCCEEDED


async def test_the_end_cuts_off_what_still_runs(tmp_path):
    gate = Gate()
    bench = Bench(tmp_path, gate)
    async with bench.jobs.running() as jobs:
        job = await jobs.submit(order())
        await gate.entered.wait()
    assert (await bench.repository.get(job.id)).error.code == "shutting_down"


async def test_finished_jobs_are_forgotten_by_number_and_age_without_their_input(tmp_path):
    init = Init(Picture(8, 8, "RGB", bytes(192)))
    bench = Bench(tmp_path)
    async with bench.jobs.running() as jobs:
        for job_id in "abc":
            await jobs.wait(await jobs.submit(order(job_id, init=init)))
    assert [await bench.repository.get(job_id) is not None for job_id in "abc"] == [False, True, True]
    assert (await bench.repository.get("c")).order.request.init is None
    bench.clock.advance(101)
    assert await bench.repository.get("c") is None


def test_parameters_read_like_those_of_other_tools():
    request = msgspec.structs.replace(order().request, negative_prompt="blur", clip_skip=1)
    assert parameters(request, 9) == (
        "p\nNegative prompt: blur\n"
        "Steps: 4, Sampler: euler, CFG scale: 1, Seed: 9, Size: 8x8, Model: m, Clip skip: 2, Version: aquatint"
    )
