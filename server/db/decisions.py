"""What moderation decided, in the database."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import asdict
from sqlalchemy import BigInteger, cast, delete, func, insert, select, tuple_

from server.db.database import Database
from server.db.tables import ALLOWED, DECISIONS
from server.db.upserting import adding, upsert
from server.domain.decision import Decision, DecisionFilter, DecisionPage, Passed
from server.domain.verdict import Action, Stage

_AT_ONCE = 1000
"""Rows in one transaction of upkeep."""


class SqlDecisions:
    """A `DecisionRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, decision: Decision) -> None:
        """Insert ``decision``."""
        async with self._database.writing() as connection:
            await connection.execute(insert(DECISIONS).values(_columns(decision)))

    async def count(self, allowed: Mapping[tuple[str, str, str], int]) -> None:
        """Add to the numbers of what was let pass, by day, tenant and stage."""
        rows = [{"day": day, "tenant": tenant, "stage": stage, "count": n} for (day, tenant, stage), n in sorted(allowed.items())]
        if not rows:
            return
        adds = upsert(self._database, ALLOWED)
        statement = adds.on_conflict_do_update(index_elements=["day", "tenant", "stage"], set_=adding(ALLOWED, adds, "count"))
        async with self._database.writing() as connection:
            await connection.execute(statement, rows)

    async def passed(self, tenant: str | None, most: int) -> tuple[Passed, ...]:
        """The newest ``most`` numbers of what was let pass, of one tenant or of all together."""
        keys = (ALLOWED.c.day, ALLOWED.c.stage)
        # A sum of wide integers is of no type of Python's in PostgreSQL.
        query = select(*keys, cast(func.sum(ALLOWED.c.count), BigInteger).label("total")).group_by(*keys)
        if tenant is not None:
            query = query.where(ALLOWED.c.tenant == tenant)
        query = query.order_by(ALLOWED.c.day.desc(), ALLOWED.c.stage).limit(most)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return tuple(Passed(row.day, Stage(row.stage), row.total) for row in rows)

    async def page(self, wanted: DecisionFilter, after: tuple[float, str] | None, most: int) -> DecisionPage:
        """The newest ``most`` decisions that ``wanted`` describes, from the one after ``after`` (time and id) on."""
        query = select(DECISIONS)
        for name, value in asdict(wanted).items():
            if value is not None:
                query = query.where(DECISIONS.c[name] == str(value))
        if after is not None:
            query = query.where(tuple_(DECISIONS.c.time, DECISIONS.c.id) < tuple_(*after))
        query = query.order_by(DECISIONS.c.time.desc(), DECISIONS.c.id.desc()).limit(most + 1)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return DecisionPage(tuple(_decision(row) for row in rows[:most]), more=len(rows) > most)

    async def forget(self, before: float) -> int:
        """Delete what was decided before that Unix time, some at once; how many rows went."""
        old = select(DECISIONS.c.id).where(DECISIONS.c.time < before).limit(_AT_ONCE).scalar_subquery()
        day = datetime.fromtimestamp(before, tz=UTC).date().isoformat()
        async with self._database.writing() as connection:
            await connection.execute(delete(ALLOWED).where(ALLOWED.c.day < day))
            return (await connection.execute(delete(DECISIONS).where(DECISIONS.c.id.in_(old)))).rowcount


def _columns(decision: Decision) -> dict[str, Any]:
    return {
        **asdict(decision),
        "stage": decision.stage.value,
        "action": decision.action.value,
        "categories": list(decision.categories),
        "reasons": list(decision.reasons),
    }


def _decision(row: Any) -> Decision:
    fields = {
        **row._mapping,  # noqa: SLF001 - SQLAlchemy's public name for it
        "stage": Stage(row.stage),
        "action": Action(row.action),
        "categories": tuple(row.categories),
        "reasons": tuple(row.reasons),
    }
    return Decision(**fields)
