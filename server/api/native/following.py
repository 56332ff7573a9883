"""A job's events as server-sent events."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request

from server.api.native.standing import Standing
from server.api.watching import KEEP_ALIVE, KEEP_ALIVE_SECONDS
from server.domain.asset import Delivery, Format
from server.domain.job import Job
from server.jobs.bus import Moment
from server.jobs.service import JobService
from server.storage.encode import encode


async def followed(
    request: Request[Any, Any, Any], job: Job, jobs: JobService, standing: Standing, last: str | None
) -> AsyncIterator[bytes]:
    """The events of ``job`` after the one with the id ``last``; ids are this process's life and a number in it."""
    life, _, number = (last or "").partition("-")
    after = int(number) if life == jobs.life and number.isdigit() else 0
    spoke = time.monotonic()
    async for moment in jobs.follow(job.id, after):
        if moment is None and time.monotonic() - spoke < KEEP_ALIVE_SECONDS:
            continue
        spoke = time.monotonic()
        if moment is None:
            yield KEEP_ALIVE
            continue
        data = await _data(request, moment, standing)
        yield b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (jobs.life.encode(), moment.number, moment.kind.encode(), data)


async def _data(request: Request[Any, Any, Any], moment: Moment, standing: Standing) -> bytes:
    if moment.progress is not None:
        told = moment.progress
        return msgspec.json.encode({"image": told.image, "step": told.step, "steps": told.steps})
    if moment.preview is not None:
        shown = moment.preview
        data = await asyncio.to_thread(encode, shown.picture, Delivery(Format.JPEG, 70))
        b64 = base64.b64encode(data).decode()
        return msgspec.json.encode({"image": shown.image, "step": shown.step, "format": "jpeg", "b64": b64})
    if moment.job is None:
        return b"{}"
    return msgspec.json.encode(await standing.view(request, moment.job))
