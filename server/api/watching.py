"""A job whose caller follows it: what happens to it, as it happens, and server-sent events to tell of it."""

import asyncio
from collections.abc import AsyncGenerator

from pipelines.contract.errors import EngineFailure
from pipelines.contract.messages import Preview, Progress
from server.domain.job import Job, Order
from server.jobs.service import JobService

KEEP_ALIVE_SECONDS = 15.0
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
KEEP_ALIVE = b": still at it\n\n"


class Watch:
    """One followed job. Submitted before the answer begins, so that a refusal still has its own HTTP status."""

    __slots__ = ("_job", "_jobs", "_news")

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs
        self._job: Job | None = None
        self._news: asyncio.Queue[Progress | Preview | None] = asyncio.Queue()

    async def begin(self, order: Order) -> Job:
        """Submit ``order``, or raise."""
        self._job = await self._jobs.submit(order, self._news.put_nowait)
        return self._job

    async def news(self) -> AsyncGenerator[Progress | Preview | Job | None, None]:
        """Progress and previews, None when nothing has happened for a while, and at last the job as it ended.

        Close the iterator when the caller has left: that cancels the job.
        """
        if self._job is None:
            msg = "Nothing has been submitted."
            raise EngineFailure(msg)
        waiting = asyncio.create_task(self._ended(self._job))
        try:
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                        event = await self._news.get()
                except TimeoutError:
                    yield None
                    continue
                if event is None:
                    break
                yield event
            yield await waiting
        finally:
            self._jobs.cancel(self._job.id)  # no effect on a job that is over
            waiting.cancel()

    async def _ended(self, job: Job) -> Job:
        ended = await self._jobs.wait(job)
        self._news.put_nowait(None)
        return ended


def event(name: str, data: bytes) -> bytes:
    """One server-sent event; ``data`` is a single line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
