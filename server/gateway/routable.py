"""What the router chooses among: roads with a name, that know what they cannot do."""

from collections.abc import Callable
from typing import Protocol

from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation
from server.gateway.roads import Roads
from server.providers import capabilities
from server.providers.provider import Provider
from server.providers.road import Road as Opened

Lacking = Callable[[ImageRequest, Call], tuple[str, ...]]
"""What of a request a road cannot do, named as the options are."""


class Road(Protocol):
    """A provider with a name, that knows what it cannot do."""

    @property
    def name(self) -> str:
        """`LOCAL`, or that of its entry under ``upstreams:``."""
        ...

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request``; raises an `AquatintError` if it cannot be done."""
        ...

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin."""
        ...

    def lacking(self, request: ImageRequest, call: Call) -> tuple[str, ...]:
        """The options of ``request`` that this road cannot honour; empty if it can do all of it."""
        ...


def everything(_request: ImageRequest, _call: Call) -> tuple[str, ...]:
    """Nothing is lacking: requests are translated for our own workers."""
    return ()


class ProviderRoad:
    """Any provider as a road."""

    __slots__ = ("_lacking", "_provider", "name")

    def __init__(self, name: str, provider: Provider, lacking: Lacking = everything) -> None:
        self.name = name
        self._provider, self._lacking = provider, lacking

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """The provider's."""
        return await self._provider.generate(request, call)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)

    def lacking(self, request: ImageRequest, call: Call) -> tuple[str, ...]:
        """As it was told."""
        return self._lacking(request, call)


class UpstreamRoad:
    """An upstream's road while it is open."""

    __slots__ = ("_opened", "_roads", "name")

    def __init__(self, opened: Opened, roads: Roads) -> None:
        self.name = opened.upstream.name
        self._opened, self._roads = opened, roads

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Through `Roads`, which keeps it open meanwhile."""
        return await self._roads.generate(request, call)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The upstream's own, as far as it tells."""
        return self._opened.provider.wait_seconds(pixel_steps)

    def lacking(self, request: ImageRequest, call: Call) -> tuple[str, ...]:
        """By what is known of the model that would be asked for now."""
        model = self._opened.succession.meant(request.model)
        return capabilities.lacking(self._opened.upstream, model, request, call.wishes, call.delivery)


def upstream_roads(roads: Roads) -> list[Road]:
    """Those that are open now, in the order of models.yaml."""
    return [UpstreamRoad(opened, roads) for name in roads.names if (opened := roads.road(name)) is not None]
