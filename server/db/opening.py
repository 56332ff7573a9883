"""A database made ready at the server's start, and closed at its end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from server.db.alone import first_at
from server.db.database import Database
from server.db.migrating import migrate


@asynccontextmanager
async def opened(database: Database, state: Path, log: FilteringBoundLogger) -> AsyncIterator[bool]:
    """Inside the block ``database`` has this version's tables; True if this server is the only one that can use it.

    Only SQLite can be known to be nobody else's, by a lock in the folder ``state``.
    """
    with first_at(state) as first:
        try:
            before, after = await migrate(database)
            if before != after:
                log.info("database migrated", before=before, after=after)
            yield first and not database.postgres
        finally:
            await database.close()
