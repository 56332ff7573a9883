"""Streamed answers: previews while the image is made, then the image, as server-sent events."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Literal

import msgspec

from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import Preview
from pipelines.contract.picture import Picture
from server.api.delivering import result
from server.api.errors import openai_envelope, problem
from server.api.openai.answers import Answers, background_of, size_of, usage_of
from server.api.openai.schemas import StreamEvent, TokenUsage
from server.api.openai.translate import Asked
from server.api.waiting import succeeded
from server.api.watching import KEEP_ALIVE, Watch, event
from server.domain.asset import Delivery
from server.domain.caching import CacheResult
from server.domain.job import Job
from server.jobs.service import JobService
from server.storage.encode import encode, enlarged

Kind = Literal["image_generation", "image_edit"]


class Stream:
    """One streamed request."""

    __slots__ = ("_answers", "_asked", "_kind", "_watch")

    def __init__(self, asked: Asked, kind: Kind, jobs: JobService, answers: Answers) -> None:
        self._asked = asked
        self._kind = kind
        self._answers = answers
        self._watch = Watch(jobs)

    async def begin(self) -> tuple[Job, AsyncIterator[bytes]]:
        """Submit the job, or raise; the events follow from the iterator."""
        job = await self._watch.begin(self._asked.order)
        return job, self._events(job)

    async def _events(self, job: Job) -> AsyncIterator[bytes]:
        shown = 0
        try:
            async with aclosing(self._watch.news()) as news:
                async for told in news:
                    if told is None:
                        yield KEEP_ALIVE
                    elif isinstance(told, Job):
                        for asset in succeeded(told).assets:
                            b64 = await self._answers.b64(asset)
                            yield self._event("completed", b64, job, usage=usage_of(told), cache=told.cache)
                    elif isinstance(told, Preview) and told.image == 0 and shown < self._asked.partial_images:
                        # The stream has no image index: of several images only the first is shown while it is made.
                        yield self._event("partial_image", await self._small(told.picture), job, index=shown)
                        shown += 1
        except AquatintError as error:
            yield event("error", msgspec.json.encode({"type": "error", **openai_envelope(problem(error))}))

    async def _small(self, picture: Picture) -> str:
        width, height = result(self._asked.order)
        form = self._asked.order.delivery.format

        def work() -> bytes:
            return encode(enlarged(picture, width, height), Delivery(form))

        return base64.b64encode(await asyncio.to_thread(work)).decode()

    def _event(
        self,
        what: str,
        b64: str,
        job: Job,
        *,
        index: int | None = None,
        usage: TokenUsage | None = None,
        cache: CacheResult | None = None,
    ) -> bytes:
        kind = f"{self._kind}.{what}"
        body = StreamEvent(
            type=kind,
            b64_json=b64,
            created_at=int(job.created),
            size=size_of(self._asked),
            quality=self._asked.quality,
            background=background_of(self._asked),
            output_format=self._asked.order.delivery.format.value,
            partial_image_index=index,
            usage=usage,
            cache=cache,
        )
        return event(kind, msgspec.json.encode(body))
