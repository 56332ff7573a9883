"""How a job stands, in our own words."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from litestar import Request

from pipelines.contract.errors import ErrorReport
from server.api.links import Links, gathered
from server.api.native.answers import spent
from server.api.native.bodies import GeneratedImage, JobTimings, JobView, NativeError
from server.api.native.noting import notes
from server.api.native.routing import route_of
from server.domain.asset import Asset
from server.domain.job import Job, JobState
from server.jobs.service import JobService


class Standing:
    """Renders jobs."""

    __slots__ = ("_jobs", "_links")

    def __init__(self, jobs: JobService, links: Links) -> None:
        self._jobs, self._links = jobs, links

    async def view(self, request: Request[Any, Any, Any], job: Job) -> JobView:
        """The whole of it."""
        place = await self._jobs.place(job) if job.state is JobState.QUEUED else None
        asked, stats = job.order.request, job.stats
        return JobView(
            id=job.id,
            batch=None if job.order.line is None else job.order.line.batch,
            state=job.state,
            model=asked.model,
            created=job.created,
            started=job.started,
            finished=job.finished,
            seeds=list(asked.seeds),
            width=asked.width,
            height=asked.height,
            attempts=job.attempts,
            cancelling=job.cancel_asked and not job.state.final,
            position=None if place is None else place.ahead,
            estimated_start=None if place is None else round(place.begins, 1),
            images=await shown(job.assets, lambda asset: self._links.output(request, asset)),
            error=None if job.error is None else told(job.error),
            timings=None
            if stats is None
            else JobTimings(
                waited=round((job.started or job.created) - job.created, 4),
                queue=round(stats.queue_seconds, 4),
                encode=round(stats.encode_seconds, 4),
                denoise=round(stats.denoise_seconds, 4),
                decode=round(stats.decode_seconds, 4),
            ),
            evaluations=None if stats is None else stats.evaluations,
            company=None if stats is None else round(stats.company, 2),
            moderation=notes(job),
            cache=job.cache if job.state is JobState.SUCCEEDED else None,
            route=route_of(job) if job.state is JobState.SUCCEEDED else None,
            usage=None if stats is None else spent(job.usage),
        )


async def shown(assets: Iterable[Asset], link: Callable[[Asset], Awaitable[str]]) -> list[GeneratedImage]:
    """Stored images, with the addresses that ``link`` makes of them."""
    assets = tuple(assets)
    urls = await gathered(link(asset) for asset in assets)
    return [
        GeneratedImage(asset.seed, asset.width, asset.height, asset.format.value, url=url, id=asset.name)
        for asset, url in zip(assets, urls, strict=True)
    ]


def told(error: ErrorReport) -> NativeError:
    """Why something failed."""
    return NativeError(error.code, error.message, error.param, error.to_exception().retryable)
