"""How many images each tenant was granted on each day."""

from sqlalchemy import delete, select

from server.db.database import Database
from server.db.tables import QUOTAS
from server.db.upserting import adding, upsert
from server.domain.spending import day_of


class SqlQuotas:
    """`Quotas` over SQLite or PostgreSQL."""

    __slots__ = ("_database", "_swept")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._swept = 0
        """The day on which days before were forgotten."""

    async def take(self, tenant: str, images: int, most: int, now: float) -> bool:
        """Count ``images`` to the day of ``now``, unless they would be more than ``most`` with those before."""
        if images > most:
            return False
        today = day_of(now)
        adds = upsert(self._database, QUOTAS).values(tenant=tenant, day=today, images=images)
        statement = adds.on_conflict_do_update(
            index_elements=["tenant", "day"],
            set_=adding(QUOTAS, adds, "images"),
            where=QUOTAS.c.images + adds.excluded.images <= most,
        ).returning(QUOTAS.c.images)
        async with self._database.writing() as connection:
            granted = (await connection.execute(statement)).first() is not None
            if self._swept < today:
                await connection.execute(delete(QUOTAS).where(QUOTAS.c.day < today))
                self._swept = today
        return granted

    async def taken(self, tenant: str, now: float) -> int:
        """How many are counted to the day of ``now``."""
        query = select(QUOTAS.c.images).where(QUOTAS.c.tenant == tenant, QUOTAS.c.day == day_of(now))
        async with self._database.reading() as connection:
            return int((await connection.execute(query)).scalar() or 0)
