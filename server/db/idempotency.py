"""Requests with an Idempotency-Key, and what was answered to them, in the database."""

import asyncio
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import Row, delete, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from server.db.database import Database
from server.db.tables import IDEMPOTENCY
from server.domain.clock import Clock
from server.domain.idempotency import Answer, KeyInUse, KeyReused, Reservation

_COMPRESSION = 1
_AT_ONCE = 256
MOST_ANSWER = 8 << 20
"""Bytes of one answer, compressed."""


class SqlIdempotency:
    """An `IdempotencyRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_clock", "_database", "_most")

    def __init__(self, database: Database, clock: Clock, *, most: int = MOST_ANSWER) -> None:
        """``most``: bytes of an answer that is kept with its body."""
        self._database, self._clock, self._most = database, clock, most

    async def reserve(self, wanted: Reservation, lease: float, created_after: float) -> Reservation | Answer:
        """Take the key for ``wanted``, or the answer that it has; keys from before ``created_after`` are free.

        A key whose owner has fallen silent is taken over, with its resource. Raises `KeyInUse` or `KeyReused`.
        """
        try:
            found = await self._reserve(wanted, lease, created_after)
        except IntegrityError:
            # Another server inserted it at the same moment: now there is a row to judge.
            found = await self._reserve(wanted, lease, created_after)
        return await asyncio.to_thread(_unpacked, found) if isinstance(found, bytes) else found

    async def answer(self, held: Reservation, answer: Answer) -> None:
        """Keep the answer, unless the key is another's by now."""
        packed = await asyncio.to_thread(_packed, answer)
        if len(packed) > self._most:
            packed = _packed(replace(answer, body=None))
        await self._change(held, {"owner": None, "lease": None, "size": len(packed), "answer": packed})

    async def release(self, held: Reservation) -> None:
        """The same request may come again at once."""
        await self._change(held, {"owner": None, "lease": None})

    async def renew(self, owner: str, resources: Iterable[str], lease: float) -> None:
        """Hold on to the keys of ``owner`` whose requests make those ``resources`` until ``lease``."""
        at_work = (IDEMPOTENCY.c.owner == owner) & IDEMPOTENCY.c.resource.in_(list(resources))
        async with self._database.writing() as connection:
            await connection.execute(update(IDEMPOTENCY).where(at_work).values(lease=lease))

    async def release_all(self) -> None:
        """Whoever held anything is known to be dead."""
        async with self._database.writing() as connection:
            held = update(IDEMPOTENCY).where(IDEMPOTENCY.c.owner.is_not(None))
            await connection.execute(held.values(owner=None, lease=None))

    async def forget(self, created_before: float, most: int, most_bytes: int) -> int:
        """Delete what is older, and the oldest answers of tenants who have more, or more bytes, than that; how many."""
        old = select(IDEMPOTENCY.c.tenant, IDEMPOTENCY.c.key).where(IDEMPOTENCY.c.created < created_before).limit(_AT_ONCE)
        sums = (
            select(IDEMPOTENCY.c.tenant, func.count().label("count"), func.sum(IDEMPOTENCY.c.size).label("bytes"))
            .group_by(IDEMPOTENCY.c.tenant)
            .having((func.count() > most) | (func.sum(IDEMPOTENCY.c.size) > most_bytes))
        )
        gone = 0
        async with self._database.reading() as connection:
            doomed = [tuple(row) for row in (await connection.execute(old)).all()]
            for tenant, count, total in (await connection.execute(sums)).all():
                doomed += await _surplus(connection, tenant, count - most, int(total) - most_bytes)
        for start in range(0, len(doomed), _AT_ONCE):
            which = tuple_(IDEMPOTENCY.c.tenant, IDEMPOTENCY.c.key).in_(doomed[start : start + _AT_ONCE])
            async with self._database.writing() as connection:
                gone += (await connection.execute(delete(IDEMPOTENCY).where(which))).rowcount
        return gone

    async def _reserve(self, wanted: Reservation, lease: float, created_after: float) -> Reservation | bytes:
        mine = (IDEMPOTENCY.c.tenant == wanted.tenant) & (IDEMPOTENCY.c.key == wanted.key)
        now = self._clock.time()
        async with self._database.writing() as connection:
            row = (await connection.execute(select(IDEMPOTENCY).where(mine).with_for_update())).first()
            if row is not None and row.created < created_after and not _held(row, now):
                await connection.execute(delete(IDEMPOTENCY).where(mine))
                row = None
            if row is None:
                await connection.execute(insert(IDEMPOTENCY).values(_columns(wanted, lease, now)))
                return wanted
            if row.fingerprint != wanted.fingerprint:
                msg = "This Idempotency-Key was sent with another request before; every request needs a key of its own."
                raise KeyReused(msg, param="Idempotency-Key")
            if row.answer is not None:
                answer: bytes = row.answer
                return answer
            if _held(row, now):
                msg = "The first request with this Idempotency-Key is not answered yet."
                raise KeyInUse(msg, param="Idempotency-Key", retry_after=1.0)
            await connection.execute(update(IDEMPOTENCY).where(mine).values(owner=wanted.owner, lease=lease))
        return replace(wanted, resource=row.resource, again=True)

    async def _change(self, held: Reservation, values: dict[str, Any]) -> None:
        mine = (IDEMPOTENCY.c.tenant == held.tenant) & (IDEMPOTENCY.c.key == held.key) & (IDEMPOTENCY.c.owner == held.owner)
        async with self._database.writing() as connection:
            await connection.execute(update(IDEMPOTENCY).where(mine).values(values))


async def _surplus(connection: AsyncConnection, tenant: str, count: int, size: int) -> list[tuple[Any, ...]]:
    """The oldest answers of ``tenant`` that make up for ``count`` rows and ``size`` bytes too many, some at once."""
    query = (
        select(IDEMPOTENCY.c.tenant, IDEMPOTENCY.c.key, IDEMPOTENCY.c.size)
        .where(IDEMPOTENCY.c.tenant == tenant, IDEMPOTENCY.c.owner.is_(None))
        .order_by(IDEMPOTENCY.c.created)
        .limit(max(count, _AT_ONCE))
    )
    found: list[tuple[Any, ...]] = []
    for row in (await connection.execute(query)).all():
        if count <= 0 and size <= 0:
            break
        found.append((row.tenant, row.key))
        count -= 1
        size -= row.size
    return found


def _held(row: Row[Any], now: float) -> bool:
    return row.owner is not None and row.lease is not None and row.lease > now


def _columns(wanted: Reservation, lease: float, now: float) -> dict[str, Any]:
    return {
        "tenant": wanted.tenant,
        "key": wanted.key,
        "fingerprint": wanted.fingerprint,
        "resource": wanted.resource,
        "created": now,
        "owner": wanted.owner,
        "lease": lease,
        "size": 0,
    }


def _packed(answer: Answer) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(answer), _COMPRESSION)


def _unpacked(packed: bytes) -> Answer:
    return msgspec.msgpack.decode(zlib.decompress(packed), type=Answer)
