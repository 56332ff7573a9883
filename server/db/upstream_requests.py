"""What was sent to upstreams and may have been charged, beyond the life of the process that sent it."""

from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError

from server.db.database import Database
from server.db.tables import UPSTREAM_REQUESTS
from server.domain.clock import Clock

KEEP_SECONDS = 30 * 24 * 3600.0
"""Far longer than a job that was begun can be begun again."""


class SqlUpstreamRequests:
    """`server.providers.resilient.Records` over SQLite or PostgreSQL."""

    __slots__ = ("_clock", "_database")

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    async def begin(self, request_id: str, road: str) -> bool:
        """Write down that the request is about to be sent; False if that is written there already."""
        table, now = UPSTREAM_REQUESTS, self._clock.time()
        try:
            async with self._database.writing() as connection:
                await connection.execute(delete(table).where(table.c.begun < now - KEEP_SECONDS))
                await connection.execute(insert(table).values(id=request_id, road=road, begun=now))
        except IntegrityError:
            return False
        return True

    async def withdraw(self, request_id: str, road: str) -> None:
        """It was not done, and not charged."""
        table = UPSTREAM_REQUESTS
        async with self._database.writing() as connection:
            await connection.execute(delete(table).where(table.c.id == request_id, table.c.road == road))
