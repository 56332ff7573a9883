"""The books in the database: money held, money spent, and what it was spent on.

A hold is a row for as long as its fate is open. Whoever ends it deletes the row, and books in the same transaction what came of
it: so each hold ends once, whoever tries again. Purses are counters, so that a limit is judged by three rows whatever has been
spent; every server locks them in the same order.
"""

import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import asdict
from sqlalchemy import BigInteger, Float, bindparam, case, cast, delete, func, insert, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipelines.contract.errors import TooLarge
from server.db.database import Database
from server.db.tables import HOLDS, PURSES, USAGE, WEBHOOKS
from server.db.upserting import adding, upsert
from server.domain.clock import Clock
from server.domain.spending import (
    ADDED,
    APART,
    THRESHOLDS,
    Balance,
    Charge,
    Crossing,
    Hold,
    Limit,
    Purse,
    Refused,
    UsageRow,
    lost,
    month_of,
    total,
    used_row,
)
from server.domain.webhook import Delivery

_PENNY = 1e-9
"""What sums of dollars may be off by."""
_AT_ONCE = 256
_MOST_ROWS = 200_000
_WIDE = {"requests": BigInteger(), "images": BigInteger()}
_KEY = (HOLDS.c.job_id, HOLDS.c.attempt, HOLDS.c.upstream)
# Made once, as `server.db.jobs` has them: making a statement costs more than running it.
_RELEASED = delete(HOLDS).where(
    HOLDS.c.job_id == bindparam("which"), HOLDS.c.attempt == bindparam("time"), HOLDS.c.upstream == bindparam("whose")
)
_ENDED = delete(HOLDS).where(tuple_(*_KEY).in_(bindparam("keys", expanding=True))).returning(*_KEY)
Compose = Callable[[Crossing], bytes]
"""The body that tells a tenant of a crossing."""


class SqlLedger:
    """A `Ledger` over SQLite or PostgreSQL."""

    __slots__ = ("_booking", "_clock", "_compose", "_database", "_holding", "_most", "_moving", "_shifting")

    def __init__(self, database: Database, clock: Clock, compose: Compose, *, most: int = _MOST_ROWS) -> None:
        """``most`` rows are told at once."""
        self._database, self._clock, self._compose, self._most = database, clock, compose, most
        self._holding = upsert(database, HOLDS).on_conflict_do_nothing().returning(*_KEY)
        moves, left = upsert(database, PURSES), PURSES.c.held + bindparam("change", type_=Float)
        self._shifting = moves.on_conflict_do_update(
            index_elements=["month", "tenant", "upstream"],
            # Sums of dollars are not exact: what is left of nothing must not be less than nothing.
            set_={"spent": PURSES.c.spent + moves.excluded.spent, "held": case((left < _PENNY, 0.0), else_=left)},
        )
        self._moving = self._shifting.returning(PURSES)
        adds = upsert(database, USAGE)
        keys = ["day", "tenant", "road", "model"]
        self._booking = adds.on_conflict_do_update(index_elements=keys, set_=adding(USAGE, adds, *ADDED))

    async def reserve(self, hold: Hold, limits: tuple[Limit, ...], *, owner: str, lease: float) -> Refused | None:
        """Set money aside, unless that would go over one of ``limits``; the same hold twice counts once."""
        row = {**asdict(hold), "owner": owner, "lease": lease}
        month = month_of(hold.at)
        async with self._database.writing() as connection:
            if not (await connection.execute(self._holding, row)).all():
                return None
            balances = await self._move(connection, hold, held=hold.usd)
            for limit in limits:
                balance = balances[limit.purse]
                if balance.spent + balance.held > limit.usd + _PENNY:
                    await self._move(connection, hold, held=-hold.usd)
                    await connection.execute(_RELEASED, _which(hold))
                    # A single request that is too large, or a moment with much on its way, has not used the budget up.
                    near = balance.spent + _PENNY >= limit.usd * THRESHOLDS[0] / 100
                    crossing = await self._cross(connection, limit, month, balance.spent, THRESHOLDS[-1]) if near else None
                    return Refused(limit, crossing)
        return None

    async def settle(self, hold: Hold, charge: Charge, limits: tuple[Limit, ...]) -> tuple[Crossing, ...]:
        """Spend ``charge`` in the place of ``hold``; nothing happens if that is no longer held: it was settled before."""
        async with self._database.writing() as connection:
            return await self._settle(connection, hold, charge, limits)

    async def release(self, hold: Hold) -> None:
        """Nothing was spent."""
        async with self._database.writing() as connection:
            if (await connection.execute(_RELEASED, _which(hold))).rowcount:
                await self._move(connection, hold, held=-hold.usd)

    async def keep(
        self, opened: Sequence[Hold], ended: Sequence[tuple[Hold, Charge | None]], *, owner: str, lease: float
    ) -> None:
        """`reserve` each of ``opened``, and `settle` or `release` each of ``ended``, where no limit holds; all or nothing."""
        charges = {hold.key: (hold, charge) for hold, charge in ended}
        holds = {hold.key: hold for hold in opened}
        moves: defaultdict[tuple[str, Purse], list[float]] = defaultdict(lambda: [0.0, 0.0])
        used = []
        async with self._database.writing() as connection:
            # What is there already, or gone already, was written by a call whose answer nobody heard.
            gone = await connection.execute(_ENDED, {"keys": list(charges)}) if charges else ()
            for row in gone:
                hold, charge = charges[tuple(row)]
                _add(moves, hold, -hold.usd, charge.usage.usd if charge else 0.0)
                if charge is not None:
                    used.append(used_row(hold.tenant, hold.upstream, charge, hold.at))
            rows = [{**asdict(hold), "owner": owner, "lease": lease} for hold in holds.values()]
            for row in await connection.execute(self._holding, rows) if rows else ():
                hold = holds[tuple(row)]
                _add(moves, hold, hold.usd, 0.0)
            # In the order of `Hold.purses`, and of `book`: as all lock them.
            await self._shift(connection, sorted(moves.items()))
            await self._book(connection, total(sorted(used, key=_place)))

    async def book(self, rows: Iterable[UsageRow]) -> None:
        """Add ``rows`` to what was used."""
        # Rows are locked in the same order by all.
        wanted = sorted(total(rows), key=_place)
        if wanted:
            async with self._database.writing() as connection:
                await self._book(connection, wanted)

    async def renew(self, owner: str, job_ids: Iterable[str], lease: float) -> None:
        """``owner`` lives, and works on those jobs."""
        wanted = list(job_ids)
        if not wanted:
            return
        # What another connection of this server ends just now need not be kept alive, and must not be waited for half-way.
        mine = select(*_KEY).where(HOLDS.c.owner == owner, HOLDS.c.job_id.in_(wanted)).with_for_update(skip_locked=True)
        async with self._database.writing() as connection:
            await connection.execute(update(HOLDS).where(tuple_(*_KEY).in_(mine)).values(lease=lease))

    async def sweep(self, *, everybody: bool = False) -> tuple[Hold, ...]:
        """Count what dead servers held as spent, as it may have been; what there was."""
        lapsed = true() if everybody else HOLDS.c.lease < self._clock.time()
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(HOLDS).where(lapsed).limit(_AT_ONCE))).all()
        holds = tuple(_hold(row) for row in rows)
        # A transaction for each: one that locked the purses of several upstreams could meet another half-way.
        for hold in holds:
            await self.settle(hold, lost(hold), ())
        return holds

    async def balances(self, month: str, tenant: str = "") -> Mapping[Purse, Balance]:
        """How the purses of ``tenant`` stand; empty: those of all tenants together."""
        query = select(PURSES).where(PURSES.c.month == month, PURSES.c.tenant == tenant)
        async with self._database.reading() as connection:
            found = [_balance(row) for row in (await connection.execute(query)).all()]
        return {balance.purse: balance for balance in found}

    async def used(
        self, since: int, until: int, tenant: str | None = None, *, apart: Collection[str] = APART
    ) -> tuple[UsageRow, ...]:
        """What was used from day ``since`` to before day ``until``, by one tenant or by all; rows alike in ``apart`` are one."""
        keys = [USAGE.c[name] for name in APART if name in apart]
        # A sum of integers is of a wider type in PostgreSQL, and one of wide integers is of no type of Python's.
        sums = [cast(func.sum(USAGE.c[name]), _WIDE.get(name, USAGE.c[name].type)).label(name) for name in ADDED]
        query = select(*keys, *sums).where(USAGE.c.day >= since, USAGE.c.day < until).group_by(*keys)
        if tenant is not None:
            query = query.where(USAGE.c.tenant == tenant)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query.order_by(*keys).limit(self._most + 1))).all()
        if len(rows) > self._most:
            msg = f"There are more than {self._most} lines to add up: ask for fewer days, for one tenant, or for all days as one."
            raise TooLarge(msg, param="since")
        whole = {"day": since, "tenant": "", "road": "", "model": ""}
        return tuple(UsageRow(**{**whole, **row._mapping}) for row in rows)  # noqa: SLF001 - SQLAlchemy's public name for it

    async def _settle(
        self, connection: AsyncConnection, hold: Hold, charge: Charge, limits: Iterable[Limit]
    ) -> tuple[Crossing, ...]:
        if (await connection.execute(_RELEASED, _which(hold))).rowcount == 0:
            return ()
        balances = await self._move(connection, hold, held=-hold.usd, spent=charge.usage.usd)
        await self._book(connection, [used_row(hold.tenant, hold.upstream, charge, hold.at)])
        crossings = []
        for limit in limits:
            spent = balances[limit.purse].spent
            reached = [percent for percent in THRESHOLDS if spent + _PENNY >= limit.usd * percent / 100]
            if reached and (crossing := await self._cross(connection, limit, month_of(hold.at), spent, reached[-1])):
                crossings.append(crossing)
        return tuple(crossings)

    async def _move(self, connection: AsyncConnection, hold: Hold, *, held: float, spent: float = 0.0) -> Mapping[Purse, Balance]:
        """Change the purses of ``hold``; how they stand then."""
        rows = [_change(month_of(hold.at), purse, held, spent) for purse in hold.purses]
        found = [_balance(row) for row in (await connection.execute(self._moving, rows)).all()]
        return {balance.purse: balance for balance in found}

    async def _shift(self, connection: AsyncConnection, moves: Iterable[tuple[tuple[str, Purse], Sequence[float]]]) -> None:
        """Change purses of several holds, one after the other."""
        rows = [_change(month, purse, held, spent) for (month, purse), (held, spent) in moves]
        if rows:
            await connection.execute(self._shifting, rows)

    async def _book(self, connection: AsyncConnection, rows: Iterable[UsageRow]) -> None:
        wanted = [asdict(row) for row in rows]
        if wanted:
            await connection.execute(self._booking, wanted)

    async def _cross(self, connection: AsyncConnection, limit: Limit, month: str, spent: float, percent: int) -> Crossing | None:
        """Note that ``percent`` are reached; None if that was known. Who asked to be told gets a message with it."""
        purse = limit.purse
        mine = (PURSES.c.month == month) & (PURSES.c.tenant == purse.tenant) & (PURSES.c.upstream == purse.upstream)
        first = await connection.execute(update(PURSES).where(mine, PURSES.c.told < percent).values(told=percent))
        if first.rowcount == 0:
            return None
        crossing = Crossing(limit, month, spent, percent)
        if limit.webhook is not None:
            now = self._clock.time()
            message = Delivery(f"msg_{secrets.token_hex(12)}", "", purse.tenant, limit.webhook, self._compose(crossing), now, now)
            await connection.execute(insert(WEBHOOKS).values({**asdict(message), "state": message.state.value}))
        return crossing


def _add(moves: Mapping[tuple[str, Purse], list[float]], hold: Hold, held: float, spent: float) -> None:
    for purse in hold.purses:
        sums = moves[month_of(hold.at), purse]
        sums[0] += held
        sums[1] += spent


def _change(month: str, purse: Purse, held: float, spent: float) -> dict[str, Any]:
    return {"month": month, **asdict(purse), "spent": spent, "held": max(held, 0.0), "change": held, "told": 0}


def _place(row: UsageRow) -> tuple[int, str, str, str]:
    """Where its row stands in the order in which all lock them."""
    return (row.day, row.tenant, row.road, row.model)


def _which(hold: Hold) -> dict[str, Any]:
    return {"which": hold.job_id, "time": hold.attempt, "whose": hold.upstream}


def _hold(row: Any) -> Hold:
    return Hold(row.job_id, row.attempt, row.upstream, row.tenant, row.model, row.usd, row.at)


def _balance(row: Any) -> Balance:
    return Balance(Purse(row.tenant, row.upstream), row.spent, row.held)
