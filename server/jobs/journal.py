"""Jobs that were over the moment they came, answered from the cache: written down a moment later, many at a time.

Nothing was promised of them but the answer, which has been given: a server that is killed forgets the last few. Whoever asks this
process sees them at once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from structlog.typing import FilteringBoundLogger

from server.domain.job import Job
from server.domain.ports import JobRepository

_LINGER = 0.2
"""Seconds for which jobs gather before they are written."""
_PAUSE = 1.0
"""Seconds between attempts, while the database takes nothing."""
_AT_ONCE = 256
_MOST = 4096
"""Jobs that wait to be written; beyond it the oldest are forgotten, as the database takes nothing."""


class Journal:
    """Owns the jobs that are yet to be written."""

    __slots__ = ("_log", "_news", "_pending", "_repository", "_writing")

    def __init__(self, repository: JobRepository, log: FilteringBoundLogger) -> None:
        self._repository, self._log = repository, log
        self._pending: dict[str, Job] = {}
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

    def put(self, job: Job) -> None:
        """Have ``job``, which is over, written down."""
        self._pending[job.id] = job
        if len(self._pending) > _MOST:
            lost = next(iter(self._pending))
            del self._pending[lost]
            self._log.error("a job that is over is not written down: the database takes nothing", job=lost)
        self._news.set()

    def get(self, job_id: str) -> Job | None:
        """A job that is yet to be written."""
        return self._pending.get(job_id)

    async def settle(self) -> None:
        """Return once everything put before has been written; raises what the database says."""
        async with self._writing:
            while batch := list(self._pending.values())[:_AT_ONCE]:
                await self._repository.record(batch)
                for job in batch:
                    self._pending.pop(job.id, None)

    async def _work(self, closing: asyncio.Event) -> None:
        while not closing.is_set():
            await self._news.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), _LINGER)
            self._news.clear()
            try:
                await self.settle()
            except Exception:  # noqa: BLE001 - a database that is away comes back
                self._log.exception("jobs that are over cannot be written down")
                self._news.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(closing.wait(), _PAUSE)
