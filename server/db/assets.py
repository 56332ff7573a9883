"""Rows of assets and blobs, counted by the rows themselves: a blob is needed as long as one asset has it.

Locks go in one direction, from assets to blobs. Whoever gives a blob another asset holds a shared lock on it, whoever dooms it an
exclusive one, and looks for assets only after it has that: in PostgreSQL a statement sees what was committed before it began.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import asdict, replace
from sqlalchemy import (
    ColumnElement,
    String,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from server.db.database import Database
from server.db.grouping import Grouped
from server.db.tables import ASSETS, BLOBS
from server.domain.asset import Asset, Format
from server.domain.stored import Blob, BlobState, Holding, Stored

_TRIMMING = 0x41515542
"""PostgreSQL's advisory lock: two servers that trim at the same time would each take away the whole excess."""

_MEETINGS = 3

# Literally: an index of only the ready ones is not taken for a value that comes beside the statement.
_IS_READY: ColumnElement[str] = literal_column(f"'{BlobState.READY.value}'")
_READY = BLOBS.c.state == _IS_READY
_WRITING = BLOBS.c.state == BlobState.WRITING.value
_DOOMED = {"state": BlobState.DOOMED.value}
_UNUSED = ~exists(select(ASSETS.c.name).where(ASSETS.c.blob == BLOBS.c.id))
_KNOWN = select(ASSETS, BLOBS.c.digest, BLOBS.c.path).join(BLOBS, ASSETS.c.blob == BLOBS.c.id).where(_READY)

# Made once, as `server.db.jobs` has them: making a statement costs more than running it.
_NEW_ASSET = insert(ASSETS)
_SOURCES = (
    _KNOWN.where(ASSETS.c.name.in_(bindparam("names", expanding=True))).order_by(BLOBS.c.id).with_for_update(read=True, of=BLOBS)
)
_OTHER = BLOBS.alias()
_CONTENT = select(_OTHER.c.id, _OTHER.c.path).where(
    _OTHER.c.tenant == bindparam("whose"), _OTHER.c.digest == bindparam("what"), _OTHER.c.state == _IS_READY
)
_SAME = _CONTENT.with_for_update(read=True)
_GIVEN = [column for column in BLOBS.c if column.name != "state"]
_NEW_CONTENT = insert(BLOBS).from_select(
    [*(column.name for column in _GIVEN), "state"],
    select(*(bindparam(column.name, type_=column.type) for column in _GIVEN), literal(BlobState.WRITING.value, String(16))).where(
        ~exists(_CONTENT)
    ),
)
"""A blob that is about to be written, if there is no other with the same content."""
_RESERVED = insert(BLOBS).values(state=BlobState.WRITING.value)
_FIRST = (
    update(BLOBS)
    .where(BLOBS.c.id == bindparam("which"), _WRITING, ~exists(_CONTENT))
    .values(state=BlobState.READY.value, digest=bindparam("what"), bytes=bindparam("size"))
)
"""A blob whose file is whole, if there is no other with the same content."""


class _Again(Exception):
    """What was seen is so no more: look again."""


class SqlAssets:
    """An `AssetRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_copies", "_database")

    def __init__(self, database: Database) -> None:
        self._database = database
        # Each hit of the cache is a copy, and there may be many at a time.
        self._copies = Grouped(self._copy)

    async def begin(self, blob: Blob, stored: Stored) -> Stored | None:
        """Add an asset to its tenant's blob of the same digest; None if there is none, and that of ``blob`` may be written."""
        while True:
            async with self._database.writing() as connection:
                self._database.ending(connection)
                if (await connection.execute(_NEW_CONTENT, _content(blob) | asdict(blob))).rowcount == 1:
                    return None
            async with self._database.writing() as connection:
                if (there := await _attached(connection, stored)) is not None:
                    return there

    def blank(self, tenant: str, digest: str, form: Format) -> Blob | None:  # noqa: ARG002 - nothing is kept here
        """None: each is noted when it is wanted."""
        return None

    async def reserve(self, blobs: Sequence[Blob]) -> None:
        """Note that the files of ``blobs`` are about to be written, whatever will be in them."""
        async with self._database.writing() as connection:
            self._database.ending(connection)
            await connection.execute(_RESERVED, [asdict(blob) for blob in blobs])

    async def withdraw(self, blobs: Sequence[Blob]) -> None:
        """Forget that; nobody has begun to write them."""
        async with self._database.writing() as connection:
            await connection.execute(delete(BLOBS).where(BLOBS.c.id.in_([blob.id for blob in blobs]), _WRITING))

    async def finish(self, blob: Blob, stored: Stored, *, soon: bool = False) -> Stored | None:  # noqa: ARG002 - it is written now
        """Add the first asset of a blob whose file is whole; None if it was given up meanwhile."""
        for _ in range(_MEETINGS):
            # Another server may have finished the same bytes at the same moment: now its blob can be seen; or has let go of them.
            with contextlib.suppress(IntegrityError, _Again):
                return await self._finish(blob, stored)
        return await self._finish(blob, stored)

    async def finish_all(self, whole: Sequence[tuple[Blob, Stored]]) -> bool:
        """`finish` for each of ``whole`` in one transaction; False: one is gone or has met another's bytes; nothing is done."""
        with contextlib.suppress(IntegrityError, _Again):
            async with self._database.writing() as connection:
                ready = [_whole(blob) for blob, _ in whole]
                if (await connection.execute(_FIRST, ready)).rowcount != len(ready):
                    raise _Again
                self._database.ending(connection)
                await connection.execute(_NEW_ASSET, [_columns(stored, blob.id) for blob, stored in whole])
            return True
        return False

    async def written(self, name: str) -> None:
        """Whatever was added is."""

    async def abandon(self, blob: Blob) -> None:
        """Doom a blob whose file will not be written."""
        async with self._database.writing() as connection:
            await connection.execute(update(BLOBS).where(BLOBS.c.id == blob.id, _WRITING).values(_DOOMED))

    async def lost(self, path: str) -> None:
        """Doom a blob without a file; assets that have it are not known from then on."""
        async with self._database.writing() as connection:
            await connection.execute(update(BLOBS).where(BLOBS.c.path == path, _READY).values(_DOOMED))

    async def get(self, name: str) -> Stored | None:
        """The asset of that name, expired or not."""
        async with self._database.reading() as connection:
            row = (await connection.execute(_KNOWN.where(ASSETS.c.name == name))).first()
        return None if row is None else _stored(row)

    async def copy(self, source: str, stored: Stored) -> Stored | None:
        """Add an asset with the content of the asset ``source``; None if that is gone."""
        return await self._copies.do((source, stored))

    async def delete(self, tenant: str, names: Iterable[str]) -> int:
        """Forget those of ``tenant``, and doom the blobs that nobody has then."""
        async with self._database.writing() as connection:
            mine = select(ASSETS.c.name).where(ASSETS.c.tenant == tenant, ASSETS.c.name.in_(list(names))).order_by(ASSETS.c.name)
            return await _drop(connection, (await connection.execute(mine.with_for_update())).scalars().all())

    async def discard(self, tenant: str, job_id: str) -> int:
        """The same for all that a job of ``tenant`` has made."""
        async with self._database.writing() as connection:
            made = select(ASSETS.c.name).where(ASSETS.c.job_id == job_id, ASSETS.c.tenant == tenant).order_by(ASSETS.c.name)
            return await _drop(connection, (await connection.execute(made.with_for_update())).scalars().all())

    async def expire(self, now: float, most: int) -> int:
        """Let go of up to ``most`` assets whose time is over; how many."""
        over = select(ASSETS.c.name).where(ASSETS.c.expires <= now).order_by(ASSETS.c.expires).limit(most)
        async with self._database.writing() as connection:
            return await _drop(connection, (await connection.execute(over.with_for_update(skip_locked=True))).scalars().all())

    async def trim(self, budget: int, most: int, *, tenant: str | None = None) -> int:
        """Let go of up to ``most`` of the oldest assets, as many as bring all (or ``tenant``'s) within ``budget`` bytes."""
        async with self._database.writing() as connection:
            if self._database.postgres:
                lock = text("SELECT pg_try_advisory_xact_lock(:lock)")
                if not (await connection.execute(lock, {"lock": _TRIMMING})).scalar_one():
                    return 0
            excess = await _held(connection, tenant) - budget
            if excess <= 0:
                return 0
            whose = (ASSETS.c.tenant == tenant,) if tenant is not None else ()
            oldest = select(ASSETS.c.name, ASSETS.c.blob, ASSETS.c.bytes).where(*whose)
            rows = (await connection.execute(oldest.order_by(ASSETS.c.created, ASSETS.c.name).limit(most))).all()
            # What somebody lets go of at this moment is not waited for, as he may wait for others of them; it counts as gone.
            free = select(ASSETS.c.name).where(ASSETS.c.name.in_([row.name for row in rows])).order_by(ASSETS.c.name)
            mine = set((await connection.execute(free.with_for_update(skip_locked=True))).scalars())
            shared = select(ASSETS.c.blob, func.count().label("uses")).where(
                ASSETS.c.blob.in_({row.blob for row in rows}), *whose
            )
            counted = (await connection.execute(shared.group_by(ASSETS.c.blob))).all()
            left = Counter({row.blob: row.uses for row in counted})
            going: list[str] = []
            for row in rows:
                if excess <= 0:
                    break
                if row.name in mine:
                    going.append(row.name)
                left[row.blob] -= 1
                excess -= row.bytes if left[row.blob] == 0 else 0
            return await _drop(connection, going)

    async def give_up(self, before: float, most: int) -> int:
        """Doom up to ``most`` blobs whose writing began before that Unix time and never ended; how many."""
        stale = select(BLOBS.c.id).where(_WRITING, BLOBS.c.created < before).limit(most).with_for_update(skip_locked=True)
        async with self._database.writing() as connection:
            ids = (await connection.execute(stale)).scalars().all()
            if ids:
                await connection.execute(update(BLOBS).where(BLOBS.c.id.in_(ids)).values(_DOOMED))
        return len(ids)

    async def doomed(self, most: int, after: tuple[float, str] | None = None) -> tuple[Blob, ...]:
        """Blobs whose file is to be deleted, the oldest first, from the one after ``after`` (creation time and id) on."""
        order = (BLOBS.c.created, BLOBS.c.id)
        wanted = select(BLOBS).where(BLOBS.c.state == BlobState.DOOMED.value).order_by(*order).limit(most)
        if after is not None:
            wanted = wanted.where(tuple_(*order) > tuple_(*after))
        async with self._database.reading() as connection:
            rows = (await connection.execute(wanted)).all()
        return tuple(Blob(row.id, row.tenant, row.digest, row.path, row.bytes, row.created) for row in rows)

    async def forget(self, blobs: Iterable[Blob]) -> None:
        """Delete the rows of doomed blobs, and those of assets that had a lost one."""
        ids = [blob.id for blob in blobs]
        async with self._database.writing() as connection:
            await connection.execute(delete(ASSETS).where(ASSETS.c.blob.in_(ids)))
            await connection.execute(delete(BLOBS).where(BLOBS.c.id.in_(ids), BLOBS.c.state == BlobState.DOOMED.value))

    async def known(self, paths: Iterable[str]) -> frozenset[str]:
        """Which of these are a blob's."""
        async with self._database.reading() as connection:
            found = await connection.execute(select(BLOBS.c.path).where(BLOBS.c.path.in_(list(paths))))
            return frozenset(found.scalars().all())

    async def holdings(self) -> tuple[Holding, ...]:
        """What each tenant has stored."""
        each = (
            select(ASSETS.c.tenant, ASSETS.c.blob, func.max(ASSETS.c.bytes).label("bytes"), func.count().label("assets"))
            .join(BLOBS, ASSETS.c.blob == BLOBS.c.id)
            .where(_READY)
            .group_by(ASSETS.c.tenant, ASSETS.c.blob)
            .subquery()
        )
        total = select(each.c.tenant, func.sum(each.c.assets), func.sum(each.c.bytes)).group_by(each.c.tenant)
        async with self._database.reading() as connection:
            rows = (await connection.execute(total.order_by(each.c.tenant))).all()
        return tuple(Holding(tenant, int(assets), int(held)) for tenant, assets, held in rows)

    async def _copy(self, wanted: Sequence[tuple[str, Stored]]) -> list[Stored | None]:
        sources = {"names": sorted({source for source, _ in wanted})}
        copies: list[Stored | None] = []
        columns: list[dict[str, Any]] = []
        async with self._database.writing() as connection:
            rows = (await connection.execute(_SOURCES, sources)).all()
            known = {row.name: row for row in rows}
            for source, stored in wanted:
                row = known.get(source)
                if row is None or row.expires <= stored.created:
                    copies.append(None)
                    continue
                old = _stored(row)
                new = replace(stored, asset=replace(old.asset, name=stored.asset.name), digest=old.digest, metadata=old.metadata)
                copies.append(new)
                columns.append(_columns(new, row.blob))
            if columns:
                await connection.execute(_NEW_ASSET, columns)
        return copies

    async def _finish(self, blob: Blob, stored: Stored) -> Stored | None:
        async with self._database.writing() as connection:
            if (await connection.execute(_FIRST, _whole(blob))).rowcount == 1:
                new = replace(stored, asset=replace(stored.asset, path=blob.path))
                self._database.ending(connection)
                await connection.execute(_NEW_ASSET, _columns(new, blob.id))
                return new
            mine = select(BLOBS.c.id).where(BLOBS.c.id == blob.id, _WRITING).with_for_update()
            if (await connection.execute(mine)).first() is None:
                return None
            other = await _attached(connection, stored)
            if other is None:
                raise _Again
            await connection.execute(update(BLOBS).where(BLOBS.c.id == blob.id).values(_DOOMED))
        return other


async def _attached(connection: AsyncConnection, stored: Stored) -> Stored | None:
    row = (await connection.execute(_SAME, {"whose": stored.tenant, "what": stored.digest})).first()
    if row is None:
        return None
    new = replace(stored, asset=replace(stored.asset, path=row.path))
    await connection.execute(_NEW_ASSET, _columns(new, row.id))
    return new


async def _drop(connection: AsyncConnection, names: Iterable[str]) -> int:
    """Delete those assets, and doom the blobs that nobody has then."""
    gone = (await connection.execute(delete(ASSETS).where(ASSETS.c.name.in_(list(names))).returning(ASSETS.c.blob))).scalars()
    blobs = list(gone)
    locked = select(BLOBS.c.id).where(BLOBS.c.id.in_(set(blobs)), _READY).order_by(BLOBS.c.id).with_for_update()
    ids = (await connection.execute(locked)).scalars().all()
    if ids:
        # A statement of its own: it sees every asset that was added until the lock was ours.
        await connection.execute(update(BLOBS).where(BLOBS.c.id.in_(ids), _UNUSED).values(_DOOMED))
    return len(blobs)


async def _held(connection: AsyncConnection, tenant: str | None) -> int:
    """Bytes of all blobs that somebody has, or of those that ``tenant`` has."""
    if tenant is None:
        total = select(func.coalesce(func.sum(BLOBS.c.bytes), 0)).where(_READY)
    else:
        mine = select(ASSETS.c.blob).where(ASSETS.c.tenant == tenant)
        total = select(func.coalesce(func.sum(BLOBS.c.bytes), 0)).where(_READY, BLOBS.c.id.in_(mine))
    return int((await connection.execute(total)).scalar_one())


def _content(blob: Blob) -> dict[str, Any]:
    return {"whose": blob.tenant, "what": blob.digest}


def _whole(blob: Blob) -> dict[str, Any]:
    return _content(blob) | {"which": blob.id, "size": blob.bytes}


def _columns(stored: Stored, blob: str) -> dict[str, Any]:
    asset = stored.asset
    return {
        "name": asset.name,
        "tenant": stored.tenant,
        "blob": blob,
        "format": asset.format.value,
        "width": asset.width,
        "height": asset.height,
        "seed": str(asset.seed),
        "bytes": asset.size,
        "created": stored.created,
        "expires": stored.expires,
        "job_id": stored.job_id,
        "metadata": stored.metadata,
    }


def _stored(row: Any) -> Stored:
    asset = Asset(row.name, Format(row.format), row.width, row.height, int(row.seed), row.bytes, row.path)
    return Stored(asset, row.tenant, row.digest, row.job_id, row.created, row.expires, bytes(row.metadata))
