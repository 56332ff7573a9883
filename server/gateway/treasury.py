"""Prices, limits and books together: what a road may cost, what it did cost, and who hears of it."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from pipelines.contract.request import ImageRequest
from server.catalog.catalog import Catalog
from server.catalog.current import CurrentCatalog
from server.catalog.pricing import cost, estimate, local_cost
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.failures import BudgetSpent, UpstreamMisconfigured
from server.domain.generation import CACHE, LOCAL, Generation, Usage
from server.domain.spending import (
    APART,
    Balance,
    Charge,
    Crossing,
    Hold,
    Ledger,
    Limit,
    Purse,
    Refused,
    UsageRow,
    day_of,
    lost,
    month_of,
    total,
    used_row,
)
from server.gateway.limits import limits_of
from server.gateway.tab import Tab
from server.telemetry.metrics import Metrics

T = TypeVar("T")

RECENT_DAYS, RECENT_SECONDS = 30, 60.0
FLUSH_SECONDS = 1.0
"""How long what our own workers did may be known to this process only: a transaction for each request is not worth it."""
_TRIES = 5
"""Attempts to write down how a hold ended: a database that is away for a moment must not make a charge of it."""
LEASE_SECONDS = 60.0
"""A server that is silent for so long has lost what it held; it speaks three times as often."""


class BudgetStanding(msgspec.Struct, frozen=True):
    """How the monthly budget of an upstream stands, all tenants together."""

    upstream: str
    month: str
    used: float
    """0 to 1, and above where a request cost more than was expected."""
    open: bool
    """Whether something of it is left."""


class Treasury:
    """Owns what this server holds: its chores and its unfinished bookings live inside `running`."""

    __slots__ = (
        "_clock",
        "_closing",
        "_counted",
        "_current",
        "_ledger",
        "_live",
        "_log",
        "_messages",
        "_metrics",
        "_owner",
        "_recent",
        "_standing",
        "_tab",
        "_work",
    )

    def __init__(
        self,
        ledger: Ledger,
        current: CurrentCatalog,
        *,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
        messages: Callable[[], None] = lambda: None,
    ) -> None:
        """``messages`` hears that there is a message to deliver."""
        self._ledger, self._current = ledger, current
        self._clock, self._metrics, self._log, self._messages = clock, metrics, log, messages
        self._owner = secrets.token_hex(8)
        self._counted: tuple[UsageRow, ...] = ()
        """What our own workers did and is not in the books yet: a row for each tenant and model."""
        self._live: set[Hold] = set()
        """Holds whose request runs here, where a budget holds: these are kept alive, with those of the tab, and no others."""
        self._tab = Tab(ledger, self._owner, lambda: self._lease, log)
        """Holds of roads without a budget."""
        self._work: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()
        self._recent: tuple[float, tuple[UsageRow, ...]] | None = None
        self._standing: tuple[BudgetStanding, ...] = ()

    @asynccontextmanager
    async def running(self, *, alone: bool = False) -> AsyncIterator["Treasury"]:
        """Inside the block holds are kept alive, and those of the dead are counted; ``alone``: all others are dead."""
        await self._sweep(everybody=alone)
        chores = [asyncio.create_task(self._chores(), name="budgets"), asyncio.create_task(self._flushes(), name="usage")]
        try:
            yield self
        finally:
            self._closing.set()
            await asyncio.wait(chores)
            await self.flush()
            await self._tab.stop()

    def standing(self) -> tuple[BudgetStanding, ...]:
        """How the upstreams' budgets stood a moment ago."""
        return self._standing

    async def reserve(self, road: str, request: ImageRequest, call: Call, *, model: str = "", quality: str | None = None) -> Hold:
        """Set aside what ``request`` may cost at most on ``road``; raises `BudgetSpent`.

        Where no budget holds nothing can be refused, and it is written down while the request is on its way. ``model`` is what is
        asked for there; empty: models.yaml's. Without a price nothing can be kept within a budget: where one holds that is
        an `UpstreamMisconfigured`, else it counts as nothing.
        """
        catalog = self._current.catalog
        asked = model or self._model(catalog, road)
        limits = limits_of(catalog, road, call.tenant)
        price = catalog.prices.price(road, asked)
        if price is None:
            self._log.warning("no price is known", upstream=road, model=asked)
            if limits:
                msg = f"There is a budget, and no price is known for {asked!r} of {road!r}: add it under 'prices' in models.yaml."
                raise UpstreamMisconfigured(msg)
        usd = 0.0 if price is None else estimate(price, request, quality).high
        hold = Hold(request.id, call.attempt, road, call.tenant, asked, usd, self._clock.time())
        if not limits:
            await self._tab.open(hold)
            return hold
        refused = await self._reserved(hold, limits)
        if refused is None:
            return hold
        if refused.crossing is not None:
            self._tell([refused.crossing])
        raise BudgetSpent(_spent(refused, month_of(hold.at)))

    def settle(self, hold: Hold, request: ImageRequest, made: Generation, seconds: float) -> Usage:
        """Have spent what ``made`` cost; the whole of its usage.

        The books are kept a moment later. Should that fail, the hold is counted once its lease has run out.
        """
        catalog = self._current.catalog
        model = made.route.model or hold.model
        price = catalog.prices.price(hold.upstream, model) or catalog.prices.price(hold.upstream, hold.model)
        known = None if price is None else cost(price, made.usage, request)
        # An estimate is never more than was held: that took the quality into account.
        usd = 0.0 if known is None else known.usd if known.measured else min(known.usd, hold.usd)
        usage = replace(made.usage, usd=usd)
        self._settle(hold, Charge(usage, len(made.pictures), seconds, model, confirmed=known is not None and known.measured))
        return usage

    def lose(self, hold: Hold, seconds: float) -> None:
        """Nobody knows what came of it: count all of it."""
        self._settle(hold, lost(hold, seconds))

    async def release(self, hold: Hold) -> None:
        """Nothing was spent. Where no budget holds, nobody waits for that either."""
        if not self._tab.close(hold, None):
            await asyncio.shield(self._begun(self._released(hold)))

    def count(self, request: ImageRequest, call: Call, made: Generation, seconds: float) -> Usage:
        """Have written down what our own workers did; the whole of its usage."""
        gpu_seconds = made.stats.device_seconds
        usd = local_cost(self._current.catalog.prices.local, request, gpu_seconds, made.device)
        usage = replace(made.usage, usd=usd, gpu_seconds=gpu_seconds)
        charge = Charge(usage, len(made.pictures), seconds, made.model)
        self._counted = total((*self._counted, used_row(call.tenant, LOCAL, charge, self._clock.time())))
        self._metrics.spent(LOCAL, usd)
        return usage

    def again(self, call: Call, model: str, images: int, usage: Usage) -> None:
        """Have written down what ``call`` is charged for pictures that were there; nothing was spent, so no budget is less."""
        charge = Charge(usage, images, 0.0, model)
        self._counted = total((*self._counted, used_row(call.tenant, CACHE, charge, self._clock.time())))

    async def flush(self) -> None:
        """Return once everything that has come so far is in the books."""
        counted, self._counted = self._counted, ()
        if counted:
            self._begun(self._watched(self._book(counted)))
        await self._tab.flush()
        if self._work:
            await asyncio.wait(set(self._work))

    async def balances(self, tenant: str = "") -> Mapping[Purse, Balance]:
        """How the purses of ``tenant`` stand this month; empty: those of all together."""
        return await self._ledger.balances(month_of(self._clock.time()), tenant)

    @property
    def _lease(self) -> float:
        return self._clock.time() + LEASE_SECONDS

    @property
    def now(self) -> float:
        """Unix time by which days and months are told."""
        return self._clock.time()

    async def used(
        self, since: int, until: int, tenant: str | None = None, *, apart: Collection[str] = APART
    ) -> tuple[UsageRow, ...]:
        """As the ledger's; this server's part is up to date."""
        await self.flush()
        return await self._ledger.used(since, until, tenant, apart=apart)

    async def recent(self) -> tuple[UsageRow, ...]:
        """What all tenants used in the last 30 days, as it was within a minute."""
        now = self._clock.monotonic()
        if self._recent is None or now - self._recent[0] > RECENT_SECONDS:
            today = day_of(self._clock.time())
            self._recent = now, await self._ledger.used(max(0, today - RECENT_DAYS), today + 1, apart=("road", "model"))
        return self._recent[1]

    async def _reserved(self, hold: Hold, limits: tuple[Limit, ...]) -> Refused | None:
        """As the ledger's; who is cancelled meanwhile has reserved nothing."""
        task = self._begun(self._ledger.reserve(hold, limits, owner=self._owner, lease=self._lease))
        try:
            refused = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._begun(self._undone(task, hold))
            raise
        if refused is None:
            self._live.add(hold)
        return refused

    async def _opened(self, hold: Hold) -> bool:
        """Whether ``hold``, which no budget can refuse, could be written down."""
        with self._told():
            await self._ledger.reserve(hold, (), owner=self._owner, lease=self._lease)
            return True
        return False

    async def _undone(self, task: "asyncio.Task[Refused | None]", hold: Hold) -> None:
        refused: Refused | None = None
        with self._told():
            refused = await task
        if refused is None:
            # Held; or it is not known, which is why it must not stay so.
            await self._released(hold)
        elif refused.crossing is not None:
            self._tell([refused.crossing])

    def _settle(self, hold: Hold, charge: Charge) -> None:
        # The answer goes on its way first.
        asyncio.get_running_loop().call_soon(self._charged, hold, charge)
        limits = limits_of(self._current.catalog, hold.upstream, hold.tenant)
        # Where there are none nobody is told of it, and nobody refused for it.
        if limits or not self._tab.close(hold, charge):
            self._begun(self._spend(hold, charge, limits))

    def _charged(self, hold: Hold, charge: Charge) -> None:
        self._metrics.spent(hold.upstream, charge.usage.usd)
        self._log.info(
            "upstream is charged",
            job=hold.job_id,
            upstream=hold.upstream,
            model=charge.model,
            usd=round(charge.usage.usd, 6),
            confirmed=charge.confirmed,
        )

    async def _spend(self, hold: Hold, charge: Charge, limits: tuple[Limit, ...]) -> None:
        self._tell(await self._ended(hold, lambda: self._ledger.settle(hold, charge, limits)) or ())

    async def _released(self, hold: Hold) -> None:
        await self._ended(hold, lambda: self._ledger.release(hold))

    async def _ended(self, hold: Hold, end: Callable[[], Awaitable[T]]) -> T | None:
        """What comes of ``end``, which ends ``hold``; None if the database takes nothing, and the lease has to run out."""
        self._live.add(hold)
        try:
            # A budget may have come since it was set aside.
            known = await self._tab.leave(hold)
            for attempt in range(_TRIES):
                if attempt:
                    await asyncio.sleep(0.1 * 2**attempt)
                known = known or await self._opened(hold)
                with self._told():
                    # What is not held would not be counted.
                    if known:
                        return await end()
        finally:
            # Until then it is kept alive: nobody else ends it.
            self._live.discard(hold)
        return None

    async def _book(self, counted: tuple[UsageRow, ...]) -> None:
        try:
            await self._ledger.book(counted)
        except Exception:
            self._counted = total((*counted, *self._counted))
            raise

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        with self._told():
            await work

    def _begun(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    def _tell(self, crossings: Iterable[Crossing]) -> None:
        for crossing in crossings:
            purse = crossing.limit.purse
            self._metrics.budget_crossed(purse.upstream, purse.tenant, crossing.percent)
            self._log.warning(
                "budget is running out" if crossing.percent < 100 else "budget is spent",  # noqa: PLR2004 - per cent
                tenant=purse.tenant or None,
                upstream=purse.upstream or None,
                month=crossing.month,
                spent_usd=round(crossing.spent, 4),
                limit_usd=crossing.limit.usd,
                percent=crossing.percent,
            )
            if crossing.limit.webhook is not None:
                self._messages()

    async def _flushes(self) -> None:
        while not self._closing.is_set():
            await self._pause(FLUSH_SECONDS)
            await self.flush()

    async def _chores(self) -> None:
        while not self._closing.is_set():
            with self._told():
                if self._current.catalog.prices.upstreams:
                    await self._ledger.renew(self._owner, {hold.job_id for hold in (*self._live, *self._tab)}, self._lease)
                    await self._sweep()
                await self._look()
            await self._pause(LEASE_SECONDS / 3)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def _sweep(self, *, everybody: bool = False) -> None:
        for hold in await self._ledger.sweep(everybody=everybody):
            self._log.warning("a dead server may have spent money", job=hold.job_id, upstream=hold.upstream, usd=hold.usd)

    async def _look(self) -> None:
        budgets = {
            name: money.monthly_budget_usd
            for name, money in self._current.catalog.prices.upstreams.items()
            if money.monthly_budget_usd is not None
        }
        found = await self.balances() if budgets else {}
        month, standing = month_of(self._clock.time()), []
        for name, limit in budgets.items():
            balance = found.get(Purse("", name), Balance(Purse("", name)))
            used = balance.spent / limit if limit else 1.0
            self._metrics.budget(name, used)
            standing.append(BudgetStanding(name, month, round(used, 4), used < 1))
        self._standing = tuple(standing)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # noqa: BLE001 - whatever a database does, pictures are made and the operator hears of it
            self._log.exception("the books cannot be kept")

    @staticmethod
    def _model(catalog: Catalog, road: str) -> str:
        money = catalog.prices.upstreams.get(road)
        return "" if money is None else money.model


def _spent(refused: Refused, month: str) -> str:
    """What the caller may know: its own figures, not those of others."""
    purse, usd = refused.limit.purse, refused.limit.usd
    whose = f"your budget of {usd:g} US dollars" if purse.tenant else "this server's budget"
    where = f" for {purse.upstream!r}" if purse.upstream else ""
    return f"What is left of {whose}{where} in {month} does not cover this request."
