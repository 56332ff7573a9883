"""Rows of uploads that lie in a bucket: each file has its own, which comes before it and goes after it. An id leads to one."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import asdict
from sqlalchemy import BigInteger, ColumnElement, bindparam, delete, exists, func, insert, literal_column, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from server.db.database import Database
from server.db.tables import UPLOADS
from server.domain.stored import BlobState
from server.domain.upload import Upload

_MEETINGS = 3

# Literally: an index of only the ready ones is not taken for a value that comes beside the statement.
_IS_READY: ColumnElement[str] = literal_column(f"'{BlobState.READY.value}'")
_READY = UPLOADS.c.state == _IS_READY
_WRITING = UPLOADS.c.state == BlobState.WRITING.value
_DOOMED = {"state": BlobState.DOOMED.value}
_MINE = UPLOADS.c.tenant == bindparam("whose")
_THE_ONE = (UPLOADS.c.path == bindparam("which"),)
_NAMED = (_MINE, UPLOADS.c.id == bindparam("what"))
_SEEN = (UPLOADS.c.path, UPLOADS.c.used)
_SOME = UPLOADS.c.path.in_(bindparam("paths", expanding=True))
_NOW: dict[str, Any] = {"used": bindparam("now")}

# Made once, as `server.db.assets` has them: making a statement costs more than running it.
_NEW = insert(UPLOADS).values({column.name: bindparam(column.name) for column in UPLOADS.c})
_GET = select(UPLOADS).where(*_NAMED, _READY)
_USE = update(UPLOADS).where(*_NAMED, _READY).values(_NOW).returning(UPLOADS.c.path)
_TOUCH = update(UPLOADS).where(*_THE_ONE, _READY, UPLOADS.c.used < bindparam("before")).values(_NOW)
_OTHER = UPLOADS.alias()
_FIRST = (
    update(UPLOADS)
    .where(
        *_THE_ONE,
        _WRITING,
        ~exists(
            select(_OTHER.c.path).where(
                _OTHER.c.tenant == bindparam("whose"),
                _OTHER.c.id == bindparam("what"),
                _OTHER.c.state == _IS_READY,
            )
        ),
    )
    .values(state=BlobState.READY.value, **_NOW)
)
"""An upload whose file is whole, if there is no other with the same id."""
_DOOM = update(UPLOADS).where(*_THE_ONE).values(_DOOMED)
_DELETE = update(UPLOADS).where(*_NAMED, _READY).values(_DOOMED)
_YOUNGEST_FIRST = [UPLOADS.c.used.desc(), UPLOADS.c.path]
_RANKED = (
    select(
        *_SEEN,
        func.sum(UPLOADS.c.bytes).over(order_by=_YOUNGEST_FIRST).label("total"),
        func.row_number().over(order_by=_YOUNGEST_FIRST).label("number"),
    )
    .where(_MINE, _READY)
    .subquery()
)
_TOO_MUCH = (
    select(_RANKED.c.path, _RANKED.c.used)
    .where(
        or_(
            _RANKED.c.total > bindparam("most_bytes", type_=BigInteger),
            _RANKED.c.number > bindparam("most_files", type_=BigInteger),
        )
    )
    .order_by(_RANKED.c.used, _RANKED.c.path.desc())
    .limit(bindparam("most"))
)
"""All but the youngest that are in bounds together."""
_UNUSED = select(*_SEEN).where(_READY, UPLOADS.c.used < bindparam("since")).order_by(UPLOADS.c.used).limit(bindparam("most"))
_CUT_OFF = select(*_SEEN).where(_WRITING, UPLOADS.c.used < bindparam("since")).order_by(UPLOADS.c.used).limit(bindparam("most"))
# In one order, and without those that somebody else lets go of: no two servers wait for each other.
_LOCKED = select(*_SEEN, UPLOADS.c.state).where(_SOME).order_by(UPLOADS.c.path).with_for_update(skip_locked=True)
_DOOM_SOME = update(UPLOADS).where(_SOME).values(_DOOMED)
_TO_DELETE = (
    select(UPLOADS)
    .where(UPLOADS.c.state == BlobState.DOOMED.value, UPLOADS.c.path > bindparam("after"))
    .order_by(UPLOADS.c.path)
    .limit(bindparam("most"))
)
_FORGET = delete(UPLOADS).where(_SOME, UPLOADS.c.state == BlobState.DOOMED.value)
_KNOWN = select(UPLOADS.c.path).where(_SOME)


class SqlUploads:
    """An `UploadRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, upload: Upload) -> str | None:
        """The path of the tenant's file with the same id, which was used now; None if that of ``upload`` may be written."""
        async with self._database.writing() as connection:
            there: str | None = (await connection.execute(_USE, _named(upload) | {"now": upload.used})).scalar()
            if there is None:
                await connection.execute(_NEW, asdict(upload) | {"state": BlobState.WRITING.value})
            return there

    async def finish(self, upload: Upload) -> str | None:
        """Where the id leads: to the file of ``upload``, or to one that was finished first; None if to neither."""
        for _ in range(_MEETINGS):
            # Another server may have finished the same bytes at the same moment: now its row can be seen.
            with contextlib.suppress(IntegrityError):
                return await self._finish(upload)
        return await self._finish(upload)

    async def doom(self, path: str) -> None:
        """Doom an upload without a file."""
        async with self._database.writing() as connection:
            await connection.execute(_DOOM, {"which": path})

    async def get(self, tenant: str, upload_id: str) -> Upload | None:
        """The upload of ``tenant`` with that id, however old."""
        async with self._database.reading() as connection:
            row = (await connection.execute(_GET, {"whose": tenant, "what": upload_id})).first()
        return None if row is None else _upload(row)

    async def touch(self, path: str, now: float, before: float) -> None:
        """Note that it is used, unless its last use is not before that time."""
        async with self._database.writing() as connection:
            await connection.execute(_TOUCH, {"which": path, "now": now, "before": before})

    async def delete(self, tenant: str, upload_id: str) -> bool:
        """Doom it; False if there is none."""
        async with self._database.writing() as connection:
            return (await connection.execute(_DELETE, {"whose": tenant, "what": upload_id})).rowcount == 1

    async def trim(self, tenant: str, most_bytes: int, most_files: int, most: int) -> int:
        """Doom up to ``most`` of those that ``tenant`` has not used for longest, until the rest is in bounds."""
        bounds = {"whose": tenant, "most_bytes": most_bytes, "most_files": most_files, "most": most}
        return await self._let_go(_TOO_MUCH, bounds)

    async def expire(self, unused_since: float, begun_before: float, most: int) -> int:
        """Doom up to ``most`` that were not used since then, or whose writing began before that time and never ended."""
        unused = await self._let_go(_UNUSED, {"since": unused_since, "most": most})
        if unused >= most:
            return unused
        return unused + await self._let_go(_CUT_OFF, {"since": begun_before, "most": most - unused})

    async def doomed(self, most: int, after: str = "") -> tuple[Upload, ...]:
        """Those whose file is to be deleted, from the one after the path ``after`` on."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(_TO_DELETE, {"after": after, "most": most})).all()
        return tuple(_upload(row) for row in rows)

    async def forget(self, paths: Iterable[str]) -> None:
        """Delete the rows of doomed ones."""
        async with self._database.writing() as connection:
            await connection.execute(_FORGET, {"paths": sorted(paths)})

    async def known(self, paths: Iterable[str]) -> frozenset[str]:
        """Which of these are an upload's."""
        async with self._database.reading() as connection:
            return frozenset((await connection.execute(_KNOWN, {"paths": list(paths)})).scalars().all())

    async def _finish(self, upload: Upload) -> str | None:
        now = {"now": upload.used}
        async with self._database.writing() as connection:
            if (await connection.execute(_FIRST, _named(upload) | {"which": upload.path} | now)).rowcount == 1:
                return upload.path
            other: str | None = (await connection.execute(_USE, _named(upload) | now)).scalar()
            await connection.execute(_DOOM, {"which": upload.path})
            return other

    async def _let_go(self, which: Any, bounds: Mapping[str, Any]) -> int:
        async with self._database.reading() as connection:
            seen = [tuple(row) for row in (await connection.execute(which, dict(bounds))).all()]
        if not seen:
            return 0
        async with self._database.writing() as connection:
            return await _doom_unchanged(connection, dict(seen))


async def _doom_unchanged(connection: AsyncConnection, seen: Mapping[str, float]) -> int:
    """Doom those that nobody has used, or finished, since they were seen."""
    rows = (await connection.execute(_LOCKED, {"paths": sorted(seen)})).all()
    going = [row.path for row in rows if row.used == seen[row.path] and row.state != BlobState.DOOMED.value]
    if going:
        await connection.execute(_DOOM_SOME, {"paths": going})
    return len(going)


def _named(upload: Upload) -> dict[str, Any]:
    return {"whose": upload.tenant, "what": upload.id}


def _upload(row: Any) -> Upload:
    return Upload(row.path, row.tenant, row.id, row.bytes, row.created, row.used)
