"""One request of several images as several of one, for upstreams that make one at a time.

None is paid for twice because another failed.
"""

import asyncio

from msgspec.structs import replace

from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import Preview, Progress, RunStats
from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation, Usage
from server.providers.provider import Provider


class Each:
    """Asks for all of them at the same time; the first error ends the others."""

    __slots__ = ("_provider",)

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """The images in the order of their seeds."""
        if len(request.seeds) == 1:
            return await self._provider.generate(request, call)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(request, call, index)) for index in range(len(request.seeds))]
        except* AquatintError as errors:
            raise _first(errors) from None
        made = [task.result() for task in tasks]
        first = made[0]
        return replace(
            first,
            pictures=tuple(picture for each in made for picture in each.pictures),
            seeds=tuple(seed for each in made for seed in each.seeds),
            stats=_slowest([each.stats for each in made]),
            route=replace(first.route, request_ids=tuple(name for each in made for name in each.route.request_ids)),
            usage=_summed([each.usage for each in made]),
            files=tuple(file for each in made for file in each.files),
        )

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)

    async def _one(self, request: ImageRequest, call: Call, index: int) -> Generation:
        def emit(event: Progress | Preview) -> None:
            call.emit(replace(event, image=index))

        alone = replace(request, id=f"{request.id}-{index}", seeds=(request.seeds[index],))
        return await self._provider.generate(alone, replace(call, emit=emit))


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
