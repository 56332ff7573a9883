"""A synchronous answer is a job that is awaited; a client that leaves cancels it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from litestar import Request

from pipelines.contract.errors import Cancelled, EngineFailure
from server.api.guard import permitted
from server.api.idempotency import made_by
from server.domain.failures import ModerationBlocked
from server.domain.job import Job, JobState, Order
from server.domain.verdict import Action
from server.jobs.service import JobService

AnyRequest = Request[Any, Any, Any]

T = TypeVar("T")


async def run_to_end(request: AnyRequest, jobs: JobService, order: Order) -> Job:
    """Submit ``order`` and return the job once it has succeeded; raises its error otherwise."""
    job = await jobs.submit(permitted(request, order))
    made_by(request, job.id)
    if job.state.final:
        return succeeded(job)
    async with cancelled_on_disconnect(request, jobs, job):
        ended = await jobs.wait(job)
    return succeeded(ended)


def succeeded(job: Job) -> Job:
    """``job`` itself, or its error raised."""
    if job.state is JobState.SUCCEEDED:
        return job
    if job.error is None:
        msg = "The job ended without a result."
        raise EngineFailure(msg)
    error = job.error.to_exception()
    if isinstance(error, Cancelled):
        msg = "The request was cancelled before it was finished."
        raise Cancelled(msg)
    if isinstance(error, ModerationBlocked):
        error.verdicts = tuple(verdict for verdict in job.verdicts if verdict.action is Action.BLOCK)
    raise error


@asynccontextmanager
async def cancelled_on_disconnect(request: AnyRequest, jobs: JobService, job: Job) -> AsyncIterator[None]:
    """Inside the block, a dropped connection cancels ``job``; so does leaving the block early."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        jobs.cancel(job.id)

    watcher = asyncio.create_task(watch(), name=f"connection of job {job.id}")
    try:
        yield
    finally:
        watcher.cancel()
        jobs.cancel(job.id)  # no effect on one that is over


async def while_connected(request: AnyRequest, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is no job; a dropped connection cancels it. The request's body must have been read."""
    task = asyncio.create_task(work)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await task
    except asyncio.CancelledError:
        if watcher.done():
            msg = "The client left before the work was finished."
            raise Cancelled(msg) from None
        raise
    finally:
        watcher.cancel()
        task.cancel()  # no effect on one that is over
