"""The cache's index in the database: which pictures answered which request."""

from collections.abc import Mapping

import msgspec
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.db.database import Database
from server.db.tables import CACHE
from server.db.upserting import upsert
from server.domain.caching import Kept
from server.domain.ports.caching import Trimmed

_AT_ONCE = 256
"""Rows of one step of trimming."""


class SqlCache:
    """A `CacheRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: str, since: float) -> Kept | None:
        """What was kept under the exact ``key`` at Unix time ``since`` or later."""
        wanted = select(CACHE.c.record).where(CACHE.c.key == key, CACHE.c.created >= since)
        async with self._database.reading() as connection:
            record = (await connection.execute(wanted)).scalar()
        return None if record is None else msgspec.msgpack.decode(record, type=Kept)

    async def find_loose(self, key: str, since: float) -> Kept | None:
        """Of what was kept under the loose ``key``, the one that was used last."""
        fitting = (CACHE.c.loose == key) & (CACHE.c.created >= since)
        wanted = select(CACHE.c.record).where(fitting).order_by(CACHE.c.used.desc(), CACHE.c.key).limit(1)
        async with self._database.reading() as connection:
            record = (await connection.execute(wanted)).scalar()
        return None if record is None else msgspec.msgpack.decode(record, type=Kept)

    async def keep(self, kept: Kept) -> None:
        """Remember ``kept``, in the place of what has its exact key."""
        values = {
            "loose": kept.keys.loose,
            "tenant": kept.tenant,
            "bytes": kept.bytes,
            "created": kept.created,
            "used": kept.created,
            "record": msgspec.msgpack.encode(kept),
        }
        insert = upsert(self._database, CACHE).values(key=kept.keys.exact, **values)
        async with self._database.writing() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=[CACHE.c.key], set_=values))

    async def drop(self, kept: Kept) -> None:
        """Forget ``kept``, and nothing that was kept in its place since."""
        mine = (CACHE.c.key == kept.keys.exact) & (CACHE.c.created == kept.created)
        async with self._database.writing() as connection:
            await connection.execute(delete(CACHE).where(mine))

    async def touch(self, used: Mapping[str, float]) -> None:
        """Those exact keys were used at those Unix times."""
        if not used:
            return
        change = update(CACHE).where(CACHE.c.key == bindparam("which")).values(used=bindparam("time"))
        # In one order everywhere, so that two servers never wait for each other's rows.
        rows = [{"which": key, "time": time} for key, time in sorted(used.items())]
        async with self._database.writing() as connection:
            await connection.execute(change, rows)

    async def trim(self, since: float, most_bytes: int, most: int) -> Trimmed:
        """Forget what is older than Unix time ``since``, then what was not used for longest until the rest is in bounds."""
        gone: list[str] = []
        while True:
            async with self._database.writing() as connection:
                went = await self._step(connection, since, most_bytes, most)
                size, entries = await _size(connection)
            gone += went
            if not went:
                return Trimmed(tuple(gone), size, entries)

    async def _step(self, connection: AsyncConnection, since: float, most_bytes: int, most: int) -> list[str]:
        """Forget some rows; none, if nothing is past its time or over a bound."""
        old = select(CACHE.c.key).where(CACHE.c.created < since).limit(_AT_ONCE).with_for_update(skip_locked=True)
        going = list((await connection.execute(old)).scalars())
        if not going:
            size, entries = await _size(connection)
            if size <= most_bytes and entries <= most:
                return []
            longest = select(CACHE.c.key, CACHE.c.bytes).order_by(CACHE.c.used, CACHE.c.key).limit(_AT_ONCE)
            for row in (await connection.execute(longest.with_for_update(skip_locked=True))).all():
                if size <= most_bytes and entries <= most:
                    break
                going.append(row.key)
                size, entries = size - row.bytes, entries - 1
        await connection.execute(delete(CACHE).where(CACHE.c.key.in_(going)))
        return going


async def _size(connection: AsyncConnection) -> tuple[int, int]:
    row = (await connection.execute(select(func.coalesce(func.sum(CACHE.c.bytes), 0), func.count()).select_from(CACHE))).one()
    return int(row[0]), int(row[1])
