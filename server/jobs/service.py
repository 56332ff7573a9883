"""Everything asked for is a job: submitted, run, awaited, cancelled."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import AquatintError, Cancelled, EngineFailure, ShuttingDown
from server.domain.call import Call, Emit, ignore
from server.domain.clock import Clock
from server.domain.job import Job, JobState, Order
from server.domain.ports import JobRepository
from server.gateway.finish import Finished, Gateway
from server.jobs.admission import Admission
from server.telemetry.metrics import Metrics


class JobService:
    """The only door to the gateway. Jobs run inside `running`, one task each."""

    __slots__ = ("_admission", "_clock", "_cut_off", "_gateway", "_group", "_idle", "_log", "_metrics", "_repository", "_tasks")

    def __init__(
        self,
        gateway: Gateway,
        repository: JobRepository,
        admission: Admission,
        *,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._gateway = gateway
        self._repository = repository
        self._admission = admission
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._tasks: dict[str, asyncio.Task[Job]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._cut_off = False

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return self._admission.closed

    @asynccontextmanager
    async def running(self) -> AsyncIterator["JobService"]:
        """Jobs live inside this block; those still running at its end are cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield self
            finally:
                self.cut_off()
                self._group = None

    async def submit(self, order: Order, emit: Emit = ignore) -> Job:
        """Admit ``order`` and start it; raises `Overloaded` or `ShuttingDown` before any work."""
        request = order.request
        work = request.width * request.height * request.sampling.steps * len(request.seeds)
        self._admission.enter(len(request.seeds), self._gateway.wait_seconds(work))
        job = Job(id=request.id, order=order, state=JobState.QUEUED, created=self._clock.time())
        try:
            await self._repository.save(job)
            if self._group is None:
                msg = "The server is not running."
                raise EngineFailure(msg)  # noqa: TRY301 - the place must be given back either way
        except BaseException:
            self._admission.leave(job.images)
            raise
        self._idle.clear()
        task = self._group.create_task(self._run(job, emit), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _task: self._over(job))
        return job

    async def wait(self, job: Job) -> Job:
        """The job once it is over; cancelling the waiter leaves the job alone."""
        task = self._tasks.get(job.id)
        if task is not None:
            await asyncio.wait([task])
        known = await self._repository.get(job.id)
        if known is None or not known.state.final:
            report = Cancelled("The job was cancelled before it began.").report()
            return msgspec.structs.replace(job, state=JobState.CANCELLED, finished=self._clock.time(), error=report)
        return known

    def cancel(self, job_id: str) -> None:
        """Stop the job; it ends as cancelled. Unknown and finished jobs are left alone."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Take nothing new from now on."""
        self._admission.close()

    def cut_off(self) -> None:
        """End what still runs; its waiters hear that the server shuts down."""
        self.close()
        self._cut_off = True
        for task in self._tasks.values():
            task.cancel()

    async def idle(self) -> None:
        """Return once no job is left."""
        await self._idle.wait()

    async def _run(self, job: Job, emit: Emit) -> Job:
        running = msgspec.structs.replace(job, state=JobState.RUNNING, started=self._clock.time())
        await self._repository.save(running)
        order = job.order
        call = Call(job.id, order.tenant, order.priority, order.request.deadline, emit, order.cards)
        try:
            finished = await self._gateway.generate(order.request, order.delivery, call)
        except asyncio.CancelledError:
            late = ShuttingDown("The server shut down before the request was finished.")
            error = late if self._cut_off else Cancelled("The job was cancelled.")
            return await self._end(running, JobState.CANCELLED, error=error)
        except AquatintError as error:
            state = JobState.CANCELLED if isinstance(error, Cancelled) else JobState.FAILED
            return await self._end(running, state, error=error)
        except Exception:  # noqa: BLE001 - a job must not take the others with it: TaskGroup would cancel them all
            self._log.exception("job failed", job=job.id)
            return await self._end(running, JobState.FAILED, error=EngineFailure("The server made a mistake; it is logged."))
        return await self._end(running, JobState.SUCCEEDED, finished=finished)

    async def _end(
        self, job: Job, state: JobState, *, finished: Finished | None = None, error: AquatintError | None = None
    ) -> Job:
        now = self._clock.time()
        report = error.report() if error else None
        ended = msgspec.structs.replace(job, state=state, finished=now, error=report)
        if finished is not None:
            ended = msgspec.structs.replace(ended, assets=finished.assets, stats=finished.stats)
        await self._repository.save(ended)
        self._metrics.job(state.value, now - job.created)
        self._log.info(
            "job is over",
            job=job.id,
            state=state.value,
            images=job.images,
            seconds=round(now - job.created, 3),
            error=report.code if report else None,
        )
        return ended

    def _over(self, job: Job) -> None:
        self._tasks.pop(job.id, None)
        self._admission.leave(job.images)
        if not self._tasks:
            self._idle.set()


def new_id() -> str:
    """An id for a job and its request."""
    return secrets.token_hex(12)


def draw_seed() -> int:
    """A seed for a request that has none; 32 bits, so that every tool can hold it."""
    return secrets.randbits(32)
