"""Moderation around a provider: one wrapper before any work, one before anything is delivered."""

from msgspec.structs import replace

from pipelines.contract.messages import Preview, Progress
from pipelines.contract.request import ImageRequest
from server.domain.call import Call, Emit
from server.domain.generation import Generation
from server.gateway.moderation.bench import Bench
from server.providers.provider import Provider


class Screened:
    """A provider that hears only of requests that may be done."""

    __slots__ = ("_bench", "_provider")

    def __init__(self, provider: Provider, bench: Bench) -> None:
        self._provider, self._bench = provider, bench

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Judge ``request``, then run it."""
        verdicts = await self._bench.before(request, call)
        generation = await self._provider.generate(request, call)
        return replace(generation, verdicts=(*verdicts, *generation.verdicts)) if verdicts else generation

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)


class Examined:
    """A provider whose pictures have been looked at; until then nobody sees anything of them where a policy may hide them."""

    __slots__ = ("_bench", "_provider")

    def __init__(self, provider: Provider, bench: Bench) -> None:
        self._provider, self._bench = provider, bench

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request``, then judge its pictures."""
        if self._bench.hides(call.tenant):
            request, call = replace(request, preview_every=0), replace(call, emit=_without_previews(call.emit))
        return await self._bench.after(request, await self._provider.generate(request, call), call)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)


def _without_previews(emit: Emit) -> Emit:
    def tell(event: Progress | Preview) -> None:
        if not isinstance(event, Preview):
            emit(event)

    return tell
