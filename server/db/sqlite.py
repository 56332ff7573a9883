"""SQLite with one trip to its thread for each statement.

aiosqlite goes there and back to make a cursor, to execute, to fetch and to close, and each trip costs more than most statements
do. Here a statement is executed and its rows are fetched in one, results being small enough to be held; and a transaction begins
with its first statement, and may end with its last, in the same trip.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import aiosqlite

Rows = list[Any]


class Cursor:
    """As much of aiosqlite's cursor as SQLAlchemy uses."""

    arraysize = 1

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._rows: Rows = []

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Execute ``sql`` and fetch what it gives."""
        await self._connection.done(self, "execute", sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Execute ``sql`` for each of ``parameters``."""
        await self._connection.done(self, "executemany", sql, parameters)

    def take(self, cursor: sqlite3.Cursor) -> None:
        """Keep all that ``cursor`` has."""
        self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
        self._rows = cursor.fetchall() if cursor.description else []

    async def fetchall(self) -> Rows:
        """The rows."""
        return self._rows

    async def close(self) -> None:
        """Nothing is open."""


class Connection(aiosqlite.Connection):
    """aiosqlite's connection, with cursors that make one trip."""

    _begin = ""
    """What a transaction that has no statement yet begins with."""
    _last = False
    """Whether the next statement ends its transaction."""

    def begin(self, statement: str) -> None:
        """Begin a transaction by ``statement``, which is executed before the next one."""
        self._begin = statement

    def last(self) -> None:
        """Have the next statement commit, unless it fails."""
        self._last = True

    async def commit(self) -> None:
        """Commit what was begun, unless its last statement has."""
        if not self._unbegun() and self.in_transaction:
            await super().commit()

    async def rollback(self) -> None:
        """Undo what was begun; nothing is to be done after a commit, which pools make sure of this way."""
        if not self._unbegun() and self.in_transaction:
            await super().rollback()

    def _unbegun(self) -> bool:
        """Whether nothing has come of the transaction that was to begin; none is to begin then."""
        begin, self._begin = self._begin, ""
        self._last = False
        return bool(begin)

    def cursor(self) -> Cursor:  # type: ignore[override] # as much of it as is used
        """A cursor, at once."""
        return Cursor(self)

    async def done(self, cursor: Cursor, how: str, sql: str, parameters: Any) -> None:
        """``cursor`` with what ``sql`` gave."""
        begin, self._begin = self._begin, ""
        last, self._last = self._last, False

        def work() -> None:
            own = self._conn.cursor()
            try:
                if begin:
                    own.execute(begin)
                (own.execute if how == "execute" else own.executemany)(sql, parameters)
                cursor.take(own)
                if last:
                    self._conn.commit()
            finally:
                own.close()

        await self._execute(work)  # type: ignore[no-untyped-call] # its own way to its thread


async def connect(file: str) -> Connection:
    """A connection to the database in ``file``."""
    # As SQLAlchemy connects: its pool hands connections from thread to thread.
    connection = Connection(lambda: sqlite3.connect(Path(file), check_same_thread=False), 64)
    connection._thread.daemon = True  # noqa: SLF001 - a server that ends does not wait for it
    await connection
    return connection
