"""Runs jobs in this process: those that somebody waits for, and those that it claims from the queue.

Every job that runs is owned, by lease. The runner says once in a while that it lives; a job whose owner falls silent is anybody's
again. Whoever has lost a job may go on computing, but cannot end it any more: each job has one result.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import AquatintError, EngineFailure
from pipelines.contract.errors import Cancelled as CancelledError
from pipelines.contract.request import Priority
from server.domain.call import Call, Emit, ignore
from server.domain.clock import Clock
from server.domain.failures import ModerationBlocked
from server.domain.job import Job
from server.domain.ports.jobs import JobRepository
from server.domain.transitions import Cancelled, Dropped, Failed, Happening, Succeeded
from server.gateway.finish import Finished, Finisher
from server.jobs.admission import Admission
from server.telemetry.metrics import Metrics

_TRIES = 6
"""Attempts to write down how a job ended; after that its lease runs out, and it is done again."""


_LARGEST = 16
"""Images of an order, as far as any usually has: with room for so many left, nothing stayed in the queue."""


class Pace(msgspec.Struct, frozen=True):
    """How often the runner does what; seconds."""

    lease: float = 15.0
    """A server that is silent for so long has lost its jobs; it speaks three times as often."""
    poll: float = 1.0
    """The queue is looked into at least so often: other servers put jobs there too."""
    keep: float = 24 * 3600.0
    """How long jobs that are over are remembered."""
    window: int = 64
    """Images of claimed jobs at work at the same time: enough to fill batches, few enough that new urgent ones come soon.

    Bulk ones fill what the others leave of it, and are not counted against them.
    """


@dataclass(slots=True, eq=False)
class _Held:
    job: Job
    claimed: bool
    before: "_Held | None"
    """The same job, lost here and taken again, as long as that has not come to its end."""
    task: asyncio.Task[None] = field(init=False)
    stop: bool = False
    """It is not to go on."""
    lost: bool = False
    """It belongs to another server now."""
    at_work: bool = False
    """It may be interrupted: not before its first step nor while its end is written down."""

    @property
    def bulk(self) -> bool:
        """It fills what others leave: nobody has to wait, or is refused, because of it."""
        return self.claimed and self.job.order.priority is Priority.BULK

    def interrupt(self) -> None:
        """Have it stop as soon as it can."""
        self.stop = True
        if self.at_work:
            self.task.cancel()


class Runner:
    """Owns the tasks of running jobs; they live inside `running`."""

    __slots__ = (
        "_admission",
        "_clock",
        "_closing",
        "_crowded",
        "_cut_off",
        "_ended",
        "_gateway",
        "_group",
        "_held",
        "_idle",
        "_listen",
        "_log",
        "_metrics",
        "_news",
        "_pace",
        "_repository",
        "owner",
    )

    def __init__(
        self,
        gateway: Finisher,
        repository: JobRepository,
        admission: Admission,
        *,
        listen: Callable[[Job], Emit],
        ended: Callable[[Job], None],
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
        pace: Pace = Pace(),  # noqa: B008 - a frozen struct
    ) -> None:
        """``listen`` gives the sink for a job's progress, ``ended`` hears of each job that is over."""
        self.owner = secrets.token_hex(8)
        self._gateway, self._repository, self._admission = gateway, repository, admission
        self._listen, self._ended = listen, ended
        self._clock, self._metrics, self._log, self._pace = clock, metrics, log, pace
        self._held: dict[str, _Held] = {}
        self._group: asyncio.TaskGroup | None = None
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = asyncio.Event()
        self._cut_off = False
        self._crowded = True
        """Whether something may have stayed in the queue for want of room: then the queue is looked into when a job is over."""

    @property
    def lease(self) -> float:
        """Unix time until which a job taken now is this process's."""
        return self._clock.time() + self._pace.lease

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Runner"]:
        """Inside the block jobs run; those still running at its end go back to the queue, or fail if nobody queued them."""
        async with asyncio.TaskGroup() as self._group:
            group = self._group
            group.create_task(self._claim(), name="claim jobs")
            group.create_task(self._speak(), name="lease jobs")
            try:
                yield self
            finally:
                self.cut_off()

    def start(self, job: Job, *, claimed: bool = False) -> asyncio.Task[None]:
        """Run ``job``, which is ours."""
        if self._group is None:
            msg = "The server is not running."
            raise EngineFailure(msg)
        self._idle.clear()
        held = _Held(job, claimed, before=self._held.get(job.id))
        held.task = self._group.create_task(self._run(held), name=f"job {job.id}")
        self._held[job.id] = held
        held.task.add_done_callback(lambda _task: self._over(held))
        return held.task

    def at_work(self, tenant: str) -> int:
        """Images of ``tenant`` that are waited for or made here, but for bulk ones."""
        return sum(held.job.images for held in self._held.values() if held.job.order.tenant == tenant and not held.bulk)

    def look(self) -> None:
        """There is something in the queue."""
        self._news.set()

    def task(self, job_id: str) -> asyncio.Task[None] | None:
        """The task of a job that runs here."""
        held = self._held.get(job_id)
        return None if held is None else held.task

    def cancel(self, job_id: str) -> None:
        """Stop a job that runs here; nothing happens to others."""
        held = self._held.get(job_id)
        if held is not None:
            held.interrupt()

    def cut_off(self) -> None:
        """Stop them all: the server ends."""
        self._cut_off = True
        # Chores end by themselves: one that is cancelled within a transaction would take its connection with it.
        self._news.set()
        self._closing.set()
        for held in self._held.values():
            held.interrupt()

    async def idle(self) -> None:
        """Return once no job is left here."""
        await self._idle.wait()

    async def _claim(self) -> None:
        """Take jobs from the queue while there is room for them."""
        while not self._cut_off:
            self._news.clear()
            self._crowded = True
            claimed_before = [held.job for held in self._held.values() if held.claimed]
            left = self._pace.window - sum(job.images for job in claimed_before)
            # Bulk jobs take no room from the others, as those go before them at the worker too.
            room = left + sum(job.images for job in claimed_before if job.order.priority is Priority.BULK)
            if room > 0 and not self._admission.closed:
                with _told(self._log, "the queue cannot be read"):
                    claimed = await self._repository.claim(self.owner, self.lease, room, left)
                    self._crowded = left - sum(job.images for job in claimed) < _LARGEST
                    for job in claimed:
                        self._begin(job)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._pace.poll)

    def _begin(self, job: Job) -> None:
        """Run a claimed job; one that came too late for that goes back as one that was interrupted at once."""
        self._admission.take(job.images, bulk=job.order.priority is Priority.BULK)
        self.start(job, claimed=True)
        if self._cut_off:
            self._held[job.id].interrupt()

    async def _speak(self) -> None:
        """Renew the leases, hear of cancelling, and put back what others have lost."""
        while not self._cut_off:
            with _told(self._log, "leases cannot be renewed"):
                before = dict(self._held)
                ours = await self._repository.renew(self.owner, before, self.lease)
                for job_id, held in before.items():
                    if ours.get(job_id, True):  # asked to cancel, or not ours any more
                        held.lost = job_id not in ours
                        held.interrupt()
                for job in await self._repository.sweep():
                    self._log.warning("job was given up by its server", job=job.id, state=job.state.value)
                    if job.state.final:
                        self._ended(job)
                    self.look()
                await self._repository.forget(self._clock.time() - self._pace.keep)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._pace.lease / 3)

    async def _run(self, held: _Held) -> None:
        job = held.job
        if held.before is not None:
            # Whoever makes the images knows them by the job's id.
            held.before.lost = True
            held.before.interrupt()
            await asyncio.wait([held.before.task])
            held.before = None
        happening = await self._work(job, held)
        if held.lost:
            return
        ended = await self._write_down(job, happening)
        if ended is not None and ended.state.final:
            # Whoever waits for it goes first.
            asyncio.get_running_loop().call_soon(self._tell, ended)

    async def _work(self, job: Job, held: _Held) -> Happening:
        """Make its images; what became of it. Interruptions are heard here and nowhere else."""
        order, call = job.order, call_of(job, self._listen(job))
        happening: Happening
        try:
            held.at_work = True
            if held.stop:
                raise asyncio.CancelledError  # noqa: TRY301 - it came before the first step
            finished = await self._gateway.generate(order.request, order.delivery, call)
            happening = ended_in(finished)
        except asyncio.CancelledError:
            happening = Dropped() if self._cut_off else Cancelled()
        except AquatintError as error:
            verdicts = error.verdicts if isinstance(error, ModerationBlocked) else ()
            happening = Cancelled() if isinstance(error, CancelledError) else Failed(error.report(), verdicts)
        except Exception:  # noqa: BLE001 - a job must not take the others with it: TaskGroup would cancel them all
            self._log.exception("job failed", job=job.id)
            happening = Failed(EngineFailure("The server made a mistake; it is logged.").report())
        finally:
            held.at_work = False
        return happening

    async def _write_down(self, job: Job, happening: Happening) -> Job | None:
        """The job as it ended; None if it is another's by now, or if the database takes nothing: then its lease runs out."""
        for attempt in range(_TRIES):
            with _told(self._log, "the end of a job cannot be written down"):
                ended = await self._repository.happen(job.id, happening, owner=self.owner)
                if ended is None:
                    self._log.warning("the result of a job is dropped: it is another server's now", job=job.id)
                return ended
            await asyncio.sleep(0.1 * 2**attempt)
        self._log.error("a job is given up: it will be done again, or has failed", job=job.id)
        return None

    def _tell(self, job: Job) -> None:
        seconds = (job.finished or job.created) - job.created
        self._metrics.job(job.state.value, seconds)
        self._log.info(
            "job is over",
            job=job.id,
            state=job.state.value,
            images=job.images,
            seconds=round(seconds, 3),
            error=job.error.code if job.error else None,
        )
        self._ended(job)

    def _over(self, held: _Held) -> None:
        if self._held.get(held.job.id) is held:
            del self._held[held.job.id]
        self._admission.leave(held.job.images, bulk=held.bulk)
        if self._crowded:
            self._news.set()
        if not self._held:
            self._idle.set()


def call_of(job: Job, emit: Emit = ignore) -> Call:
    """What travels beside the request of ``job``."""
    order = job.order
    return Call(
        job.id,
        order.tenant,
        order.priority,
        order.request.deadline,
        emit,
        order.road,
        order.cards,
        order.origins,
        cache=order.cache,
        seeded=order.seeded,
        wishes=order.wishes,
        delivery=order.delivery,
        durable=job.durable,
        attempt=job.attempts,
    )


def ended_in(finished: Finished) -> Succeeded:
    """What that means for its job."""
    return Succeeded(finished.assets, finished.stats, finished.route, finished.usage, finished.verdicts, finished.cache)


@contextlib.contextmanager
def _told(log: FilteringBoundLogger, what: str) -> Iterator[None]:
    """Chores go on whatever a database does meanwhile; the operator hears of it."""
    try:
        yield
    except Exception:
        log.exception(what)
