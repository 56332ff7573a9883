"""The roads that requests can take: our own workers, and the upstreams of models.yaml as they are at the moment."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from pipelines.contract.request import ImageRequest
from server.catalog.catalog import Catalog
from server.catalog.current import CurrentCatalog
from server.catalog.upstreams import Upstream
from server.domain.call import Call
from server.domain.failures import UpstreamMisconfigured
from server.domain.generation import LOCAL, Generation
from server.providers.provider import Provider
from server.providers.retirement import Retirement
from server.providers.road import Road, UpstreamHealth


@dataclass(slots=True, eq=False)
class _Open:
    road: Road
    users: int = 0
    over: bool = False
    """It has been replaced, or removed: whoever uses it last closes it."""


class Roads:
    """Owns the open roads, and takes the one that a call names."""

    __slots__ = ("_current", "_group", "_local", "_log", "_open", "_opens", "_retirement")

    def __init__(
        self, local: Provider, current: CurrentCatalog, opens: Callable[[Upstream], Road], log: FilteringBoundLogger
    ) -> None:
        self._local, self._current, self._opens, self._log = local, current, opens, log
        self._open: dict[str, _Open] = {}
        self._group: asyncio.TaskGroup | None = None
        self._retirement = Retirement(lambda: [each.road for each in self._open.values()], log)
        self._take_over(current.catalog)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Roads"]:
        """Inside the block edits of models.yaml are taken over, and retiring models noticed; at its end roads are closed."""
        async with asyncio.TaskGroup() as self._group:
            watch = self._group.create_task(self._retirement.watch(), name="models of upstreams")
            try:
                with self._current.told(self._take_over):
                    yield self
            finally:
                watch.cancel()
        self._group = None
        for each in self._open.values():
            await each.road.source.close()

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` on the road that ``call`` names; raises `UpstreamMisconfigured` if it is not there any more."""
        if call.road == LOCAL:
            return await self._local.generate(request, call)
        taken = self._open.get(call.road)
        if taken is None:
            msg = f"There is no upstream {call.road!r} in models.yaml any more, or it has no key."
            raise UpstreamMisconfigured(msg)
        taken.users += 1
        try:
            return await taken.road.provider.generate(request, call)
        finally:
            taken.users -= 1
            if taken.over and not taken.users:
                await taken.road.source.close()

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """Our own workers': upstreams do not tell."""
        return self._local.wait_seconds(pixel_steps)

    def road(self, name: str) -> Road | None:
        """The upstream's road of that name, if it is open."""
        found = self._open.get(name)
        return None if found is None else found.road

    def noted(self, catalog: Catalog) -> Catalog:
        """``catalog`` with what is asked for instead of models that have retired, as far as that is known by now."""
        roads = [each.road for each in self._open.values()]
        instead = {road.upstream.name: now for road in roads if (now := road.succession.model) != road.upstream.model}
        return replace(catalog, instead=instead) if instead else catalog

    @property
    def names(self) -> tuple[str, ...]:
        """The upstreams that can be taken, in the order of models.yaml."""
        return tuple(self._open)

    def health(self) -> tuple[UpstreamHealth, ...]:
        """How it stands with each of them."""
        return tuple(each.road.health for each in self._open.values())

    def _take_over(self, catalog: Catalog) -> None:
        wanted = {name: upstream for name, upstream in catalog.upstreams.items() if upstream.on}
        before, self._open = self._open, {}
        for name, upstream in wanted.items():
            known = before.get(name)
            if known is not None and known.road.upstream == upstream:
                self._open[name] = before.pop(name)
            else:
                self._open[name] = _Open(self._opens(upstream))
        for old in before.values():
            old.over = True
            if not old.users and self._group is not None:
                self._group.create_task(old.road.source.close(), name=f"close {old.road.upstream.name}")
        self._retirement.look()
