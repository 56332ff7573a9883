"""API keys in the database: digests of secrets that are random enough to need no salt."""

from typing import Any

from sqlalchemy import func, insert, or_, select, update

from server.db.database import Database
from server.db.tables import KEYS
from server.domain.key import Key, Scope


class SqlKeys:
    """A `KeyRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: Key, digest: str) -> None:
        """Insert ``key``; ``digest`` is the hexadecimal SHA-256 of its secret."""
        async with self._database.writing() as connection:
            await connection.execute(insert(KEYS).values({**_columns(key), "digest": digest}))

    async def by_digest(self, digest: str) -> Key | None:
        """The key with that secret, live or not."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(KEYS).where(KEYS.c.digest == digest))).first()
        return None if row is None else _key(row)

    async def get(self, key_id: str) -> Key | None:
        """The key called ``key_id``."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(KEYS).where(KEYS.c.id == key_id))).first()
        return None if row is None else _key(row)

    async def all(self) -> tuple[Key, ...]:
        """Every key, the oldest first."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(KEYS).order_by(KEYS.c.created, KEYS.c.id))).all()
        return tuple(_key(row) for row in rows)

    async def live(self, now: float) -> int:
        """How many keys open something."""
        count = select(func.count()).where(KEYS.c.revoked.is_(None), or_(KEYS.c.expires.is_(None), KEYS.c.expires > now))
        async with self._database.reading() as connection:
            return int((await connection.execute(count)).scalar_one())

    async def revoke(self, key_id: str, now: float) -> bool:
        """Have it open nothing from now on; False if there is no such key that did."""
        changes = update(KEYS).where(KEYS.c.id == key_id, KEYS.c.revoked.is_(None)).values(revoked=now)
        async with self._database.writing() as connection:
            return (await connection.execute(changes)).rowcount > 0

    async def expire(self, key_id: str, when: float) -> bool:
        """Have it open nothing after Unix time ``when``; False if there is no such key that is not revoked."""
        changes = update(KEYS).where(KEYS.c.id == key_id, KEYS.c.revoked.is_(None)).values(expires=when)
        async with self._database.writing() as connection:
            return (await connection.execute(changes)).rowcount > 0


def _columns(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": " ".join(key.scopes),
        "models": list(key.models),
        "created": key.created,
        "expires": key.expires,
        "revoked": key.revoked,
    }


def _key(row: Any) -> Key:
    return Key(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        scopes=tuple(Scope(word) for word in row.scopes.split()),
        created=row.created,
        models=tuple(row.models),
        expires=row.expires,
        revoked=row.revoked,
    )
