"""One request of several images as several of one, for upstreams that make one at a time.

All of them or none is delivered, so the money for all is set aside before any is sent: no budget ends in the middle. If one fails
the others are given up; what was made of them, or may have been, is in the books already, image by image, and the money of those
that were not sent is given back. Then the failure is told as `UpstreamAmbiguous`, so that nobody pays for the whole request once
more; except for a refusal, which is none's to repeat.
"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from pipelines.contract.errors import AquatintError, InvalidRequest
from pipelines.contract.messages import Preview, Progress, RunStats
from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.failures import UpstreamAmbiguous
from server.domain.generation import Generation, Usage
from server.domain.sending import Sending
from server.providers.paid import Paid
from server.providers.provider import Provider


class Each:
    """Asks for all of them at the same time; the first error ends the others."""

    __slots__ = ("_provider",)

    def __init__(self, provider: Paid) -> None:
        self._provider = provider

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """The images in the order of their seeds; raises `UpstreamAmbiguous` if one failed and others may have been made.

        Raises `BudgetSpent` before anything is sent if there is too little for all of them.
        """
        if len(request.seeds) == 1:
            return await self._provider.generate(request, call)
        parts = [replace(request, id=f"{request.id}-{index}", seeds=(seed,)) for index, seed in enumerate(request.seeds)]
        async with self._provider.reserved(parts, call) as providers:
            made = await _all(parts, providers, _sendings(call, len(parts)), request.id)
        first = made[0]
        return replace(
            first,
            pictures=tuple(picture for each in made for picture in each.pictures),
            seeds=tuple(seed for each in made for seed in each.seeds),
            stats=_slowest([each.stats for each in made]),
            route=replace(first.route, request_ids=tuple(name for each in made for name in each.route.request_ids)),
            usage=_summed([each.usage for each in made]),
        )

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)


async def _all(
    parts: Sequence[ImageRequest], providers: Sequence[Provider], out: Sequence[Sending], whole: str
) -> list[Generation]:
    """What comes of each of ``parts``; ``whole`` is the id by which whoever listens knows them all."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(provider.generate(part, _as_part(sending.call, whole, index)))
                for index, (part, provider, sending) in enumerate(zip(parts, providers, out, strict=True))
            ]
    except* AquatintError as errors:
        raise _told(_first(errors), sum(each.doubtful for each in out), len(out)) from None
    return [task.result() for task in tasks]


def _as_part(call: Call, whole: str, index: int) -> Call:
    def emit(event: Progress | Preview) -> None:
        call.emit(replace(event, id=whole, image=index))

    return replace(call, emit=emit)


def _sendings(call: Call, count: int) -> list[Sending]:
    """One for each image; the caller hears that nothing was done once that is so of all of them."""
    out: list[Sending] = []

    def spared() -> None:
        if not any(each.doubtful for each in out):
            call.spared()

    out.extend(Sending(replace(call, spared=spared)) for _ in range(count))
    return out


def _told(error: AquatintError, doubtful: int, count: int) -> AquatintError:
    if not doubtful or isinstance(error, (InvalidRequest, UpstreamAmbiguous)):
        return error
    msg = f"One of {count} pictures failed, and {doubtful} may have been made and charged: {error.message}"
    return UpstreamAmbiguous(msg)


def _slowest(stats: list[RunStats]) -> RunStats:
    return max(stats, key=lambda each: each.denoise_seconds)


def _summed(usages: list[Usage]) -> Usage:
    return Usage(*(sum(getattr(usage, field) for usage in usages) for field in Usage.__struct_fields__))


def _first(errors: ExceptionGroup[AquatintError]) -> AquatintError:
    """The first one; it cancelled the others."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if not isinstance(found, AquatintError):
        raise found
    return found
