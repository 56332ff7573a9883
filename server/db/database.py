"""One database, SQLite or PostgreSQL, behind SQLAlchemy's asyncio."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from server.db.sqlite import connect
from server.domain.failures import StorageFull

_BUSY_SECONDS = 30.0
"""How long a SQLite writer waits for the one before it."""

_SQLITE_READERS = 4

_DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE."""

_FULL_SECONDS = 60.0
"""After so long it may be worth another try: what is old enough has been collected by then."""


class Database:
    """Connections for reading, and transactions for writing.

    SQLite knows one writer at a time: a transaction takes the write lock at its beginning, so that it never has to give up
    halfway because another was first. Writers of this process wait in line for the one connection that writes, as SQLite's own
    way of waiting is to look again after ever longer pauses. Reads see the last committed state and wait for nobody (WAL); each
    statement for itself, as in PostgreSQL.
    """

    __slots__ = ("_file", "_reads", "_writes", "postgres")

    def __init__(self, url: str | URL) -> None:
        """``sqlite+aiosqlite:///PATH`` or ``postgresql+asyncpg://...``; nothing is opened yet."""
        target = make_url(url)
        self.postgres = target.get_backend_name() == "postgresql"
        self._file = None if self.postgres else target.database
        if self.postgres:
            self._writes = create_async_engine(target, pool_pre_ping=True)
            self._reads = self._writes.execution_options(isolation_level="AUTOCOMMIT")
            return
        if target.database:
            Path(target.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._writes = _sqlite(target, begin="BEGIN IMMEDIATE", connections=1)
        self._reads = _sqlite(target, begin=None, connections=_SQLITE_READERS)

    async def prepare(self) -> None:
        """Have SQLite keep a write-ahead log; it is kept from then on, whoever opens the file."""
        if self._file is not None:
            await asyncio.to_thread(_log_ahead, self._file)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the block, undone if it raises. `StorageFull` if there is no room for it."""
        try:
            async with self._writes.begin() as connection:
                yield connection
        except DBAPIError as error:
            if not _no_room(error):
                raise
            msg = "There is no room left in the database; try again later."
            raise StorageFull(msg, retry_after=_FULL_SECONDS) from error

    def ending(self, connection: AsyncConnection) -> None:
        """The next statement in `writing` is its last, and may commit with it: one trip less to SQLite."""
        known = connection.sync_connection
        if not self.postgres and known is not None:
            known.connection.driver_connection.last()  # type: ignore[union-attr] # `server.db.sqlite.Connection`

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that only reads."""
        async with self._reads.connect() as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection."""
        for engine in (self._writes, self._reads):
            await engine.dispose()


def _no_room(error: DBAPIError) -> bool:
    """Whether the disk is full: SQLite's SQLITE_FULL, PostgreSQL's disk_full."""
    cause = error.orig
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or getattr(cause, "sqlstate", None) == _DISK_FULL


def beside(home: Path) -> URL:
    """The database that comes with a folder of state."""
    return URL.create("sqlite+aiosqlite", database=str(home / "state" / "aquatint.db"))


def _log_ahead(file: str) -> None:
    """Change the journal's mode. Of several who do so at the same time SQLite tells some that it is locked, without waiting."""
    deadline = time.monotonic() + _BUSY_SECONDS
    pause = threading.Event()
    with contextlib.closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                pause.wait(0.02)
            else:
                return


def _sqlite(target: URL, *, begin: str | None, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        target,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_BUSY_SECONDS,
        async_creator=lambda: connect(target.database or ""),
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver's own idea of when transactions begin is too late
        cursor = connection.cursor()
        # With a write-ahead log NORMAL loses nothing when a process dies, only, perhaps, the last commits when the power does.
        for setting in (f"busy_timeout={int(_BUSY_SECONDS * 1000)}", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    if begin is not None:

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Any) -> None:
            connection.connection.driver_connection.begin(begin)

    return engine
