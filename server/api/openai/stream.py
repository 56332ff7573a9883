"""Streamed answers: previews while the image is made, then the image, as server-sent events."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec

from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import Preview, Progress
from pipelines.contract.picture import Picture
from server.api.delivering import result
from server.api.errors import openai_envelope, problem
from server.api.openai.answers import Answers, size_of
from server.api.openai.schemas import StreamEvent
from server.api.openai.translate import Asked
from server.api.waiting import succeeded
from server.domain.asset import Delivery
from server.domain.job import Job
from server.jobs.service import JobService
from server.storage.encode import encode, enlarged

Kind = Literal["image_generation", "image_edit"]

KEEP_ALIVE_SECONDS = 15.0
_NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
"""Required by the schema; nothing here is counted in tokens."""


class Stream:
    """One streamed request. Created before the answer begins, so that a refusal still has its own HTTP status."""

    __slots__ = ("_answers", "_asked", "_job", "_jobs", "_kind", "_previews")

    def __init__(self, asked: Asked, kind: Kind, jobs: JobService, answers: Answers) -> None:
        self._asked = asked
        self._kind = kind
        self._jobs = jobs
        self._answers = answers
        self._job: Job | None = None
        self._previews: asyncio.Queue[Preview | None] = asyncio.Queue()

    async def begin(self) -> AsyncIterator[bytes]:
        """Submit the job, or raise; the events follow from the iterator."""
        self._job = await self._jobs.submit(self._asked.order, self._emit)
        return self._events(self._job)

    def _emit(self, event: Progress | Preview) -> None:
        # The stream has no image index: of several images only the first is shown while it is made.
        if isinstance(event, Preview) and event.image == 0:
            self._previews.put_nowait(event)

    async def _events(self, job: Job) -> AsyncIterator[bytes]:
        waiting = asyncio.create_task(self._ended(job))
        shown = 0
        try:
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                        preview = await self._previews.get()
                except TimeoutError:
                    yield b": still at it\n\n"
                    continue
                if preview is None:
                    break
                if shown < self._asked.partial_images:
                    yield self._event("partial_image", await self._small(preview.picture), job, index=shown)
                    shown += 1
            for asset in succeeded(await waiting).assets:
                yield self._event("completed", await self._answers.b64(asset), job, usage=_NO_TOKENS)
        except AquatintError as error:
            body = {"type": "error", **openai_envelope(problem(error))}
            yield _lines("error", msgspec.json.encode(body))
        finally:
            self._jobs.cancel(job.id)  # the client may have left; no effect on a job that is over
            waiting.cancel()

    async def _ended(self, job: Job) -> Job:
        ended = await self._jobs.wait(job)
        self._previews.put_nowait(None)
        return ended

    async def _small(self, picture: Picture) -> str:
        width, height = result(self._asked.order)
        form = self._asked.order.delivery.format

        def work() -> bytes:
            return encode(enlarged(picture, width, height), Delivery(form))

        return base64.b64encode(await asyncio.to_thread(work)).decode()

    def _event(self, what: str, b64: str, job: Job, *, index: int | None = None, usage: dict[str, Any] | None = None) -> bytes:
        kind = f"{self._kind}.{what}"
        event = StreamEvent(
            type=kind,
            b64_json=b64,
            created_at=int(job.created),
            size=size_of(self._asked),
            quality=self._asked.quality,
            background="opaque",
            output_format=self._asked.order.delivery.format.value,
            partial_image_index=index,
            usage=usage,
        )
        return _lines(kind, msgspec.json.encode(event))


def _lines(event: str, data: bytes) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"
