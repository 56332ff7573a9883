"""What became of a job, in our own words, at once or while it is made."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from litestar import Request

from pipelines.contract.errors import AquatintError, EngineFailure
from pipelines.contract.messages import Preview
from server.api.delivering import result
from server.api.errors import native_envelope, problem
from server.api.links import Links, gathered
from server.api.native.bodies import Generated, GeneratedImage, Spent, Timings
from server.api.native.generating import Generation
from server.api.native.noting import notes
from server.api.native.routing import route_of
from server.api.waiting import succeeded
from server.api.watching import KEEP_ALIVE, Watch, event
from server.domain.asset import Asset, Delivery, Format
from server.domain.generation import Usage
from server.domain.job import Job
from server.domain.ports.assets import AssetStore
from server.jobs.service import JobService
from server.storage.encode import encode

AnyRequest = Request[Any, Any, Any]


class Results:
    """Renders jobs of the native dialect."""

    __slots__ = ("_links", "_store")

    def __init__(self, store: AssetStore, links: Links) -> None:
        self._store = store
        self._links = links

    async def whole(self, request: AnyRequest, asked: Generation, job: Job, *, inline: bool) -> Generated:
        """The answer to a job that has succeeded; ``inline`` puts the files into it."""
        size, stats = result(asked.order), job.stats
        if stats is None or job.finished is None:
            msg = "The job ended without a result."
            raise EngineFailure(msg)
        return Generated(
            id=job.id,
            created=int(job.created),
            model=job.order.request.model,
            size=f"{size[0]}x{size[1]}",
            seeds=[asset.seed for asset in job.assets],
            images=await gathered(self._image(request, asset, inline=inline) for asset in job.assets),
            timings=Timings(
                queue=round(stats.queue_seconds, 4),
                encode=round(stats.encode_seconds, 4),
                denoise=round(stats.denoise_seconds, 4),
                decode=round(stats.decode_seconds, 4),
                total=round(job.finished - job.created, 4),
            ),
            evaluations=stats.evaluations,
            cache=job.cache,
            usage=spent(job.usage),
            warnings=list(asked.warnings),
            moderation=notes(job),
            route=route_of(job),
        )

    async def _image(self, request: AnyRequest, asset: Asset, *, inline: bool) -> GeneratedImage:
        if not inline:
            url = await self._links.output(request, asset)
            return GeneratedImage(asset.seed, asset.width, asset.height, asset.format.value, url=url, id=asset.name)
        data = await self._store.get(asset.name)
        if data is None:
            msg = "The finished image is gone: the space for results is too small."
            raise EngineFailure(msg)
        b64 = base64.b64encode(data).decode()
        return GeneratedImage(asset.seed, asset.width, asset.height, asset.format.value, b64=b64, id=asset.name)


def spent(usage: Usage) -> Spent:
    """``usage`` as it is told."""
    return Spent(
        usd=round(usage.usd, 9),
        gpu_seconds=round(usage.gpu_seconds, 4),
        input_text_tokens=usage.input_text_tokens,
        input_image_tokens=usage.input_image_tokens,
        output_tokens=usage.output_tokens,
    )


async def streamed(
    request: AnyRequest, asked: Generation, jobs: JobService, results: Results, *, inline: bool
) -> tuple[Job, AsyncIterator[bytes]]:
    """Submit the job, or raise; then ``started``, ``progress`` and ``preview`` events, and ``finished`` or ``error``."""
    watch = Watch(jobs)
    job = await watch.begin(asked.order)

    async def events() -> AsyncIterator[bytes]:
        yield _line("started", {"id": job.id, "model": job.order.request.model, "seeds": job.order.request.seeds})
        try:
            async with aclosing(watch.news()) as news:
                async for told in news:
                    if told is None:
                        yield KEEP_ALIVE
                    elif isinstance(told, Job):
                        yield _line("finished", await results.whole(request, asked, succeeded(told), inline=inline))
                    elif isinstance(told, Preview):
                        yield await _preview(told)
                    else:
                        yield _line("progress", {"image": told.image, "step": told.step, "steps": told.steps})
        except AquatintError as error:
            yield _line("error", native_envelope(problem(error)))

    return job, events()


async def _preview(told: Preview) -> bytes:
    data = await asyncio.to_thread(encode, told.picture, Delivery(Format.JPEG))
    shown = {"image": told.image, "step": told.step, "format": "jpeg", "b64": base64.b64encode(data).decode()}
    return _line("preview", shown)


def _line(name: str, body: object) -> bytes:
    return event(name, msgspec.json.encode(body))
