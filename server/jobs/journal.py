"""Jobs that somebody waits for: known here at once, and written down a moment later, many at a time.

Nothing was promised of them but an answer: a server that is killed fails those that it was at, and forgets those of the last
moment. So no answer waits for a transaction, and a request costs the database no more than a line. Whoever asks this process
sees them at once; other servers after a fifth of a second. Jobs that outlive the server, and those of which somebody else wants
to hear, are written down before anything else happens.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
from structlog.typing import FilteringBoundLogger

from server.domain.clock import Clock
from server.domain.job import Job
from server.domain.ports.jobs import Ahead, JobFilter, JobPage, JobRepository
from server.domain.transitions import Happening, advance

_AT_ONCE = 256


class Writing(msgspec.Struct, frozen=True):
    """How a journal is written; seconds."""

    linger: float = 0.2
    """Jobs gather for so long before they are written."""
    pause: float = 1.0
    """Between attempts, while the database takes nothing."""
    most: int = 4096
    """Jobs that wait to be written; beyond it those that were over first are forgotten, as the database takes nothing."""


class Journal:
    """A `JobRepository` that owns the jobs which are yet to be written, and those of them that are at work."""

    __slots__ = ("_clock", "_log", "_news", "_pace", "_passing", "_repository", "_unwritten", "_writing")

    def __init__(
        self,
        repository: JobRepository,
        clock: Clock,
        log: FilteringBoundLogger,
        pace: Writing = Writing(),  # noqa: B008 - a frozen struct
    ) -> None:
        self._repository, self._clock, self._log, self._pace = repository, clock, log, pace
        self._passing: dict[str, Job] = {}
        """As they stand: those that are not over, and those that are not written as they stand."""
        self._unwritten: dict[str, None] = {}
        self._news, self._writing = asyncio.Event(), asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Journal"]:
        """Inside the block jobs are written; at its end all of them have been, or cannot be."""
        closing = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(closing), name="journal")
            try:
                yield self
            finally:
                closing.set()
                self._news.set()

    async def settle(self) -> None:
        """Return once everything that has happened before is written; raises what the database says."""
        async with self._writing:
            # Only those: while they are written more come all the time, and may gather.
            before = list(self._unwritten)
            for start in range(0, len(before), _AT_ONCE):
                batch = [self._passing[each] for each in before[start : start + _AT_ONCE] if each in self._unwritten]
                await self._repository.record(batch)
                for job in batch:
                    # More may have happened to it meanwhile.
                    if self._passing.get(job.id) is job:
                        self._unwritten.pop(job.id, None)
                        if job.state.final:
                            del self._passing[job.id]

    async def add(self, job: Job) -> None:
        """Know ``job``; one that is to outlive this process, or is to be told of, is written down now."""
        if job.durable or job.order.notify is not None:
            await self._repository.add(job)
        else:
            self._put(job)

    async def record(self, jobs: Sequence[Job]) -> None:
        """Know ``jobs``, which were over the moment they came."""
        for job in jobs:
            self._put(job)

    async def get(self, job_id: str) -> Job | None:
        """The job without its input pictures, or None."""
        return self._passing.get(job_id) or await self._repository.get(job_id)

    async def happen(self, job_id: str, happening: Happening, *, owner: str | None = None) -> Job | None:
        """The job after ``happening``; None if there is none, or ``owner`` is not its owner. Raises `IllegalTransition`."""
        job = self._passing.get(job_id)
        if job is None:
            return await self._repository.happen(job_id, happening, owner=owner)
        if owner is not None and job.owner != owner:
            return None
        after = advance(job, happening, self._clock.time())
        if after is not job:
            self._put(after)
        return after

    async def claim(self, owner: str, lease: float, images: int, bulk: int | None = None) -> tuple[Job, ...]:
        """The repository's: nobody waits for jobs of the queue."""
        return await self._repository.claim(owner, lease, images, bulk)

    async def renew(self, owner: str, ids: Iterable[str], lease: float) -> Mapping[str, bool]:
        """Hold on to those jobs: which of them are ``owner``'s still, and of each whether it shall be cancelled."""
        wanted = list(ids)
        await self.settle()
        ours = await self._repository.renew(owner, wanted, lease)
        for job_id in wanted:
            job = self._passing.get(job_id)
            if job is not None and not job.state.final and job_id not in ours:
                # Another server has taken this one for dead: what it wrote of the job holds.
                self._unwritten.pop(job_id, None)
                del self._passing[job_id]
        return ours

    async def sweep(self, *, everybody: bool = False) -> tuple[Job, ...]:
        """The repository's."""
        return await self._repository.sweep(everybody=everybody)

    async def ahead(self, job: Job) -> Ahead:
        """The repository's."""
        return await self._repository.ahead(job)

    async def queued_images(self) -> int:
        """The repository's."""
        return await self._repository.queued_images()

    async def page(self, wanted: JobFilter, after: tuple[float, str] | None, most: int) -> JobPage:
        """The repository's, with all that is known here."""
        await self.settle()
        return await self._repository.page(wanted, after, most)

    async def delete(self, job_id: str) -> bool:
        """Forget a job that is over; False if it is not, or not known."""
        await self.settle()
        return await self._repository.delete(job_id)

    async def forget(self, finished_before: float) -> tuple[Job, ...]:
        """The repository's."""
        return await self._repository.forget(finished_before)

    def _put(self, job: Job) -> None:
        self._passing[job.id] = job.without_input()
        self._unwritten[job.id] = None
        if len(self._unwritten) > self._pace.most:
            # Those that are not over are as many as are let in.
            lost = next((each for each in self._unwritten if self._passing[each].state.final), None)
            if lost is not None:
                del self._unwritten[lost], self._passing[lost]
                self._log.error("a job that is over is not written down: the database takes nothing", job=lost)
        self._news.set()

    async def _work(self, closing: asyncio.Event) -> None:
        last = False
        while not last:
            await self._news.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), self._pace.linger)
            # Once more after the end has come: something may have happened while the last ones were written.
            last = closing.is_set()
            self._news.clear()
            try:
                await self.settle()
            except Exception:  # noqa: BLE001 - a database that is away comes back
                self._log.exception("jobs cannot be written down")
                self._news.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(closing.wait(), self._pace.pause)
            if closing.is_set():
                self._news.set()
