"""Everything asked for is a job: submitted, run, awaited, looked at, cancelled."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import EngineFailure, Overloaded
from pipelines.contract.request import ImageRequest
from server.access.limits import Allowances
from server.domain.asset import Delivery
from server.domain.call import Call, Emit, ignore
from server.domain.clock import Clock
from server.domain.job import Job, JobState, Order
from server.domain.ports.jobs import JobFilter, JobPage, JobRepository
from server.domain.transitions import Begun, CancelAsked, Dropped, advance
from server.gateway.finish import Finished, Finisher
from server.jobs.admission import Admission
from server.jobs.bus import Bus, Moment
from server.jobs.journal import Journal
from server.jobs.runner import Pace, Runner, call_of, ended_in
from server.telemetry.metrics import Metrics

FOLLOW_SECONDS = 1.0
"""How often who follows a job hears that nothing has happened, and the database is asked about it."""


_COUNT_SECONDS = 0.25
"""So long a count of the queue is believed, with what this process adds to it."""

Recall = Callable[[ImageRequest, Delivery, Call], Awaitable[Finished | None]]
"""The answer to a request if it is there already, without any work."""


async def nothing(_request: ImageRequest, _delivery: Delivery, _call: Call) -> None:
    """Remembers no answers."""


class Place(msgspec.Struct, frozen=True):
    """Where a job stands in the queue."""

    ahead: int
    """Jobs before it."""
    begins: float
    """Unix time, estimated."""


class JobService:
    """The only door to the gateway."""

    __slots__ = (
        "_admission",
        "_allowances",
        "_bus",
        "_clock",
        "_entering",
        "_gateway",
        "_metrics",
        "_queue_most",
        "_queued",
        "_recall",
        "_repository",
        "_runner",
        "_sinks",
        "_told",
        "life",
    )

    def __init__(
        self,
        gateway: Finisher,
        repository: JobRepository,
        admission: Admission,
        allowances: Allowances | None = None,
        *,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
        ended: Callable[[Job], None] = lambda _job: None,
        recall: Recall = nothing,
        queue_most: int = 10_000,
        pace: Pace = Pace(),  # noqa: B008 - a frozen struct
    ) -> None:
        """``queue_most`` bounds the images of queued jobs, ``admission`` those that are waited for or at work.

        ``allowances`` bounds what each tenant may ask for. ``ended`` hears of every job that is over. ``recall`` knows answers
        that are there already.
        """
        self._told, self._allowances = ended, allowances
        self._gateway, self._admission = gateway, admission
        self._clock, self._metrics, self._queue_most = clock, metrics, queue_most
        self._recall = recall
        self._repository = Journal(repository, clock, log)
        self._queued = (0, float("-inf"))
        self._bus = Bus()
        self.life = secrets.token_hex(4)
        """A word for this process: the numbers of its events mean nothing in another."""
        self._entering = Counter[str]()
        """Images of each tenant that are let in, and not at work yet: the database is asked in between."""
        self._sinks: dict[str, Emit] = {}
        """Of those who wait for their job and want to hear of it themselves."""
        self._runner = Runner(
            gateway,
            self._repository,
            admission,
            listen=self._listen,
            ended=self._ended,
            clock=clock,
            metrics=metrics,
            log=log,
            pace=pace,
        )

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return self._admission.closed

    @asynccontextmanager
    async def running(self, *, alone: bool = False) -> AsyncIterator["JobService"]:
        """Jobs run inside this block; ``alone``: no other server lives, so what dead ones have begun is taken over at once."""
        await self._repository.sweep(everybody=alone)
        async with self._repository.running(), self._runner.running():
            try:
                yield self
            finally:
                self.close()

    async def submit(self, order: Order, emit: Emit = ignore) -> Job:
        """Admit ``order`` and start it at once, for somebody who waits.

        Where the answer is there already, the job that comes back is over: nothing is started, and no place in the queue needed.
        Raises `Overloaded`, `ShuttingDown`, `RateLimited` or `QuotaSpent` before any work.
        """
        job = self._job(order, durable=False)
        self._admission.check_open()
        if self._allowances is not None:
            self._allowances.request(order.tenant)
        remembered = await self._recall(order.request, order.delivery, call_of(job))
        if remembered is not None:
            return await self._answered(job, remembered)
        wait = self._gateway.wait_seconds(job.work)
        if self._allowances is not None:
            at_work = self._runner.at_work(order.tenant) + self._entering[order.tenant]
            self._allowances.company(order.tenant, job.images, at_work, self._admission.patience(wait))
        self._admission.enter(job.images, wait)
        try:
            self._entering[order.tenant] += job.images
            if self._allowances is not None:
                await self._allowances.day(order.tenant, job.images)
            job = advance(job, Begun(self._runner.owner, self._runner.lease), self._clock.time())
            await self._repository.add(job)
            self._sinks[job.id] = emit
            self._runner.start(job)
        except BaseException:
            self._sinks.pop(job.id, None)
            self._admission.leave(job.images)
            raise
        finally:
            self._entered(job)
        return job

    async def enqueue(self, order: Order) -> Job:
        """Accept ``order`` for good: once this returns it will be done, whatever becomes of this process.

        Raises `Overloaded`, `ShuttingDown`, `RateLimited` or `QuotaSpent`.
        """
        job = self.draft(order)
        self._admission.check_open()
        if self._allowances is not None:
            self._allowances.request(order.tenant)
        waiting = await self._waiting(job.images)
        if waiting and waiting + job.images > self._queue_most:
            self._metrics.refused(Overloaded.code)
            msg = f"The queue is full: {waiting} images are waiting in it, the limit is {self._queue_most}."
            raise Overloaded(msg, retry_after=self._admission.patience(self._gateway.wait_seconds(job.work)))
        if self._allowances is not None:
            await self._allowances.day(order.tenant, job.images)
        await self._repository.add(job)
        self.arrived(job)
        return job

    def draft(self, order: Order) -> Job:
        """The job that ``order`` is once it is written down."""
        return self._job(order, durable=True)

    def arrived(self, job: Job) -> None:
        """``job`` has been written down, and waits in the queue."""
        self._bus.queued(job)
        self._runner.look()

    async def wait(self, job: Job) -> Job:
        """``job``, which runs here, once it is over; cancelling the waiter leaves the job alone."""
        if job.state.final:
            return job
        task = self._runner.task(job.id)
        if task is not None:
            await asyncio.wait([task])
        known = await self._repository.get(job.id)
        if known is None or not known.state.final:
            # Stopped before its first step, or its end could not be written down.
            known = advance(job, Dropped(), self._clock.time())
        if not known.state.final:
            msg = "How the job ended could not be written down; it will be done again."
            raise EngineFailure(msg)
        return known

    async def get(self, job_id: str) -> Job | None:
        """The job as it stands."""
        return await self._repository.get(job_id)

    async def place(self, job: Job) -> Place:
        """Where a queued job stands, and when it may begin, judged by the backlog and the pace of the workers."""
        ahead = await self._repository.ahead(job)
        return Place(ahead.jobs, self.begins(ahead.work))

    def begins(self, work: int) -> float:
        """Unix time at which something may begin that has ``work`` pixel-steps before it."""
        return self._clock.time() + self._gateway.wait_seconds(work)

    async def follow(self, job_id: str, after: int = 0) -> AsyncIterator[Moment | None]:
        """What happens to a job from event ``after`` on, to its end; None now and then when nothing does.

        Of a job that another server works on, or of one that this process does not remember, only the end is told.
        """
        while True:
            moments = await self._bus.since(job_id, after, FOLLOW_SECONDS)
            for moment in moments:
                after = moment.number
                yield moment
                if moment.kind == "finished":
                    return
            if moments:
                continue
            yield None
            job = await self.get(job_id)
            if job is None:
                return
            if job.state.final and not self._bus.remembers(job_id, after):
                yield Moment(after + 1, "finished", job)
                return

    async def page(self, wanted: JobFilter, after: tuple[float, str] | None, most: int) -> JobPage:
        """The newest jobs that ``wanted`` describes, from the one after ``after`` on."""
        return await self._repository.page(wanted, after, most)

    async def delete(self, job_id: str) -> bool:
        """Forget a job that is over."""
        return await self._repository.delete(job_id)

    def cancel(self, job_id: str) -> None:
        """Stop a job that runs here; it ends as cancelled. Others, and finished ones, are left alone."""
        self._runner.cancel(job_id)

    async def revoke(self, job_id: str) -> Job | None:
        """Cancel a job wherever it is: the job as it stands then, running still until its server has stopped it.

        That it was asked for is written down first, so that no server takes it up again.
        """
        job = await self._repository.happen(job_id, CancelAsked())
        if job is not None and job.state is JobState.CANCELLED and self._runner.task(job_id) is None:
            self._ended(job)
        self._runner.cancel(job_id)
        return job

    def close(self) -> None:
        """Take nothing new from now on."""
        self._admission.close()

    def cut_off(self) -> None:
        """End what still runs: who waits hears that the server shuts down, what was queued goes back to the queue."""
        self.close()
        self._runner.cut_off()

    async def idle(self) -> None:
        """Return once no job is left here."""
        await self._runner.idle()

    async def _waiting(self, images: int) -> int:
        """Images in the queue; asked of the database now and then, or when ``images`` more would be too many."""
        now = self._clock.monotonic()
        known, asked = self._queued
        if now - asked >= _COUNT_SECONDS or known + images > self._queue_most:
            known, asked = await self._repository.queued_images(), now
        # What is taken out of it meanwhile counts on: that is put right when it would matter.
        self._queued = (known + images, asked)
        return known

    def _entered(self, job: Job) -> None:
        """``job`` is at work, or has not come in."""
        self._entering[job.order.tenant] -= job.images
        if not self._entering[job.order.tenant]:
            del self._entering[job.order.tenant]

    async def _answered(self, job: Job, finished: Finished) -> Job:
        """``job`` begun and over in one moment."""
        now = self._clock.time()
        job = advance(advance(job, Begun(self._runner.owner, now), now), ended_in(finished), now)
        await self._repository.record([job])
        self._metrics.job(job.state.value, now - job.created)
        self._ended(job)
        return job

    def _job(self, order: Order, *, durable: bool) -> Job:
        return Job(order.request.id, order, JobState.QUEUED, self._clock.time(), durable=durable)

    def _listen(self, job: Job) -> Emit:
        if not job.durable:
            return self._sinks.get(job.id, ignore)
        self._bus.started(job)
        return self._bus.sink(job.id)

    def _ended(self, job: Job) -> None:
        self._sinks.pop(job.id, None)
        if job.durable:
            self._bus.finished(job)
        self._told(job)


def new_id() -> str:
    """An id for a job and its request."""
    return secrets.token_hex(12)


def draw_seed() -> int:
    """A seed for a request that has none; 32 bits, so that every tool can hold it."""
    return secrets.randbits(32)
