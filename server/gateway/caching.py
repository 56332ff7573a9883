"""Earlier pictures for later requests, where the caller takes them, and one making of what is asked for several times at once."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from pipelines.contract.messages import RunStats
from pipelines.contract.request import ImageRequest
from server.domain.asset import Asset, Delivery
from server.domain.caching import CacheResult, CacheUse, Kept, Keys
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.generation import Usage
from server.domain.ports.assets import AssetStore
from server.domain.ports.caching import CacheRepository
from server.gateway.finish import Finished, Finisher
from server.gateway.flights import Flights
from server.gateway.identity import Identity
from server.gateway.lasting import lasting
from server.telemetry.metrics import Metrics

_NOTHING = RunStats(0.0, 0.0, 0.0, 0.0, 0, 0.0)
"""What a request costs that costs nothing."""

_SPARE = 0.9
"""A cache over its budget is brought down to this share of it, so that not every new picture has to push out one."""


Charged = Callable[[Call, str, int, Usage], None]
"""Hears who is charged what for how many pictures of which model that were made before."""


def for_nothing(_call: Call, _model: str, _images: int, _usage: Usage) -> None:
    """Writes nothing down."""


class CacheBounds(msgspec.Struct, frozen=True):
    """How much is kept, for how long, and at what price."""

    seconds: float = 24 * 3600.0
    bytes: int = 1 << 30
    """Of files that the cache knows of; 0: there is no cache."""
    cost: float = 0.0
    """The share of what the pictures cost that is charged for having them again."""
    entries: int = 100_000
    recent: int = 4096
    """Entries that are also remembered here, so that a hit does not ask the database."""
    pause: float = 5.0
    """Seconds from one tidying up to the next."""


class Cached:
    """A `Finisher` that answers from what it has made before.

    A cache never fails a request: if its table cannot be read or written, pictures are made as if there were none.
    """

    __slots__ = (
        "_added",
        "_bounds",
        "_charged",
        "_clock",
        "_flights",
        "_identity",
        "_inner",
        "_log",
        "_metrics",
        "_recent",
        "_repository",
        "_store",
        "_used",
    )

    def __init__(
        self,
        inner: Finisher,
        identity: Identity,
        repository: CacheRepository,
        store: AssetStore,
        *,
        bounds: CacheBounds,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
        charged: Charged = for_nothing,
    ) -> None:
        """``charged`` is told of each answer that was not made for its caller and still costs something."""
        self._charged = charged
        self._inner, self._identity, self._repository, self._store = inner, identity, repository, store
        self._bounds, self._clock, self._metrics, self._log = bounds, clock, metrics, log
        self._flights = Flights(clock)
        self._recent: OrderedDict[str, Kept] = OrderedDict()
        """By exact and by loose keys, the latest at the end."""
        self._used: dict[str, float] = {}
        """Exact keys and when they were used: what the table is yet to hear."""
        self._added = 0
        """Bytes that the table has at the most, as far as this process knows."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Cached"]:
        """Inside the block the table is kept within its bounds."""
        closing = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            if self._bounds.bytes:
                group.create_task(self._tend(closing), name="tidy the cache")
            try:
                yield self
            finally:
                closing.set()

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """Of who makes what is not there."""
        return self._inner.wait_seconds(pixel_steps)

    async def recall(self, request: ImageRequest, delivery: Delivery, call: Call) -> Finished | None:
        """The answer to ``request`` if it is there already, and nobody has to make anything."""
        keys = await self._keys(request, delivery, call)
        return None if keys is None else await self._hit(keys, call)

    async def generate(self, request: ImageRequest, delivery: Delivery, call: Call) -> Finished:
        """Make, or find, the images of ``request``."""
        keys = await self._keys(request, delivery, call)
        if keys is None:
            self._metrics.cache(CacheResult.OFF.value)
            return await self._inner.generate(request, delivery, call)
        # Of one tenant: how the work ends depends on its own budget.
        flight = f"{call.tenant}\0{keys.exact}"
        # Twice: what was under way before the table was read may have landed meanwhile, and is remembered here.
        waited = call.seeded and self._flights.under_way(flight, call.priority)
        if not waited and (found := await self._hit(keys, call)) is not None:
            return found
        if not call.seeded:
            return self._told(CacheResult.MISS, await self._make(keys, request, delivery, call))
        if not self._flights.under_way(flight, call.priority):
            remembered = self._remembered(keys.exact)
            if remembered is not None and (found := await self._again(remembered, call)) is not None:
                return found

        return await self._made_once(flight, keys, request, delivery, call)

    async def _keys(self, request: ImageRequest, delivery: Delivery, call: Call) -> Keys | None:
        """Those of a request that may be answered by an earlier picture, or answer a later one."""
        if not self._bounds.bytes or call.cache is CacheUse.OFF or (call.cache is CacheUse.EXACT and not call.seeded):
            return None
        return await self._identity.of(request, delivery, call)

    async def _hit(self, keys: Keys, call: Call) -> Finished | None:
        for key in ([keys.exact] if call.seeded else []) + ([keys.loose] if call.cache is CacheUse.ANY else []):
            kept = self._remembered(key)
            if kept is not None and (found := await self._again(kept, call)) is not None:
                return found
            # What another server has made since may be there still.
            kept = await self._look_up(key, loose=key == keys.loose)
            if kept is not None and (found := await self._again(kept, call)) is not None:
                return found
        return None

    @property
    def _since(self) -> float:
        """Unix time: what is older answers nothing."""
        return self._clock.time() - self._bounds.seconds

    def _remembered(self, key: str) -> Kept | None:
        kept = self._recent.get(key)
        return None if kept is None or kept.created < self._since else kept

    async def _look_up(self, key: str, *, loose: bool) -> Kept | None:
        find = self._repository.find_loose if loose else self._repository.find
        with self._minor("the cache cannot be read"):
            return await find(key, self._since)
        return None

    async def _again(self, kept: Kept, call: Call) -> Finished | None:
        """The pictures of ``kept`` as the caller's own; None, and nothing is left of it, if they are gone."""
        assets = await self._copies(kept.assets, call)
        if assets is None:
            self._forget(kept)
            with self._minor("the cache cannot be written"):
                await self._repository.drop(kept)
            return None
        self._remember(kept)
        self._used[kept.keys.exact] = self._clock.time()
        found = Finished(assets, _NOTHING, kept.route, kept.usage, kept.verdicts)
        return self._told(CacheResult.HIT, self._priced(found, call))

    async def _copies(self, assets: tuple[Asset, ...], call: Call) -> tuple[Asset, ...] | None:
        made: list[Asset] = []
        for asset in assets:
            copy = await self._store.again(asset, call.tenant, call.id)
            if copy is None:
                return None
            made.append(copy)
        return tuple(made)

    async def _made_once(self, flight: str, keys: Keys, request: ImageRequest, delivery: Delivery, call: Call) -> Finished:
        """Make it, or wait for whoever makes it already."""

        async def work(request: ImageRequest, call: Call) -> Finished:
            return await self._make(keys, request, delivery, call)

        while True:
            landed = await self._flights.join(flight, request, call, work)
            finished = landed.finished
            if landed.owner:
                return self._told(CacheResult.MISS, finished)
            if (assets := await self._copies(finished.assets, call)) is not None:
                break
            # The pictures are gone already: they are made anew, by one of those who still want them.
        if not landed.payer:
            finished = self._priced(replace(finished, stats=_NOTHING), call)
        return self._told(CacheResult.SHARED, replace(finished, assets=assets))

    async def _make(self, keys: Keys, request: ImageRequest, delivery: Delivery, call: Call) -> Finished:
        finished = await self._inner.generate(request, delivery, call)
        if not lasting(finished, call):
            return finished
        kept = Kept(keys, call.tenant, finished.assets, finished.route, finished.usage, self._clock.time(), finished.verdicts)
        if kept.bytes <= self._bounds.bytes:
            self._remember(kept)
            with self._minor("the cache cannot be written"):
                await self._repository.keep(kept)
                self._added += kept.bytes
                if self._added > self._bounds.bytes:
                    await self._trim(self._bounds.bytes)
        return finished

    def _told(self, result: CacheResult, finished: Finished) -> Finished:
        self._metrics.cache(result.value)
        return replace(finished, cache=result)

    def _priced(self, finished: Finished, call: Call) -> Finished:
        """``finished`` at the price of those who come after the one for whom it was made."""
        usage = Usage(usd=finished.usage.usd * self._bounds.cost)
        if usage.usd:
            self._charged(call, finished.route.model, len(finished.assets), usage)
        return replace(finished, usage=usage)

    def _remember(self, kept: Kept) -> None:
        for key in (kept.keys.exact, kept.keys.loose):
            self._recent[key] = kept
            self._recent.move_to_end(key)
        while len(self._recent) > 2 * self._bounds.recent:
            self._recent.popitem(last=False)

    def _forget(self, kept: Kept) -> None:
        for key in (kept.keys.exact, kept.keys.loose):
            if self._recent.get(key) == kept:
                del self._recent[key]

    async def _tend(self, closing: asyncio.Event) -> None:
        while not closing.is_set():
            with self._minor("the cache cannot be tidied up"):
                await self._note()
                await self._trim(self._bounds.bytes)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing.wait(), self._bounds.pause)
        with self._minor("the cache cannot be tidied up"):
            await self._note()

    async def _note(self) -> None:
        """Tell the table what was used, so that it is kept."""
        used, self._used = self._used, {}
        await self._repository.touch(used)

    async def _trim(self, most_bytes: int) -> None:
        """Bring the table into its bounds, with some room if it was over them."""
        left = await self._repository.trim(self._since, most_bytes, self._bounds.entries)
        if left.gone and left.bytes > _SPARE * most_bytes:
            more = await self._repository.trim(self._since, int(_SPARE * most_bytes), self._bounds.entries)
            left = replace(more, gone=left.gone + more.gone)
        self._added = left.bytes
        self._metrics.cache_size(left.bytes, left.entries)
        for key in left.gone:
            if key in self._recent:
                self._forget(self._recent[key])

    @contextlib.contextmanager
    def _minor(self, what: str) -> Iterator[None]:
        """What goes wrong inside is logged, and nothing else comes of it."""
        try:
            yield
        except Exception:  # noqa: BLE001 - whatever a database does, the pictures are what counts
            self._log.exception(what)
