"""In whose turn: tenants that wait in one class of priority are served image by image, by start-time fair queueing.

A job that is queued gets a number, its turn: where its tenant's queue ends, but no earlier than what is served now. Turns
count images, so the one with ten thousand waiting and the one with three are each served one image in two, and within a tenant
the first goes first. A turn is worked out once, when the job is written down: to claim is to read an index from its beginning,
however many wait.
"""

from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pipelines.contract.request import Priority
from server.db.tables import JOBS
from server.domain.job import Job, JobState

# Written out, as the index of those that wait is known by it.
_QUEUED = literal_column("state") == literal_column(f"'{JobState.QUEUED.value}'")
_CLASS = JOBS.c.priority == bindparam("priority")
_ENDS = (
    select(JOBS.c.turn + JOBS.c.images)
    .where(_QUEUED, _CLASS, JOBS.c.tenant == bindparam("tenant"), JOBS.c.turn.is_not(None))
    .order_by(JOBS.c.turn.desc())
    .limit(1)
)
_SERVED = select(func.max(JOBS.c.turn)).where(JOBS.c.state == JobState.RUNNING.value, _CLASS)
_HEAD = select(func.min(JOBS.c.turn)).where(JOBS.c.state == JobState.QUEUED.value, _CLASS)
_TURN = select(_ENDS.scalar_subquery(), _SERVED.scalar_subquery(), _HEAD.scalar_subquery())

# Two of one tenant at the same time would end up with one turn.
_ONE_BY_ONE = text("SELECT pg_advisory_xact_lock(hashtextextended('turns of ' || :tenant, 0))")

ORDER = (JOBS.c.priority, JOBS.c.turn, JOBS.c.created, JOBS.c.id)
"""Who is next."""


async def next_turn(connection: AsyncConnection, job: Job) -> int | None:
    """The turn of ``job``, which is to be inserted in the transaction at hand; None if it does not wait in the queue."""
    if job.state is not JobState.QUEUED:
        return None
    tenant = job.order.tenant
    if connection.dialect.name == "postgresql":
        await connection.execute(_ONE_BY_ONE, {"tenant": tenant})
    row = (await connection.execute(_TURN, {"priority": int(job.order.priority), "tenant": tenant})).one()
    return max(int(value or 0) for value in row)


def next_urgent(most: int) -> Select[Any]:
    """The next ``most`` jobs that are not bulk, and that no other transaction holds."""
    return _next(JOBS.c.priority < int(Priority.BULK), most)


def next_bulk(most: int) -> Select[Any]:
    """The same of those that are."""
    return _next(JOBS.c.priority == int(Priority.BULK), most)


def _next(which: ColumnElement[bool], most: int) -> Select[Any]:
    return (
        select(JOBS.c.record, JOBS.c.images)
        .where(JOBS.c.state == JobState.QUEUED.value, which)
        .order_by(*ORDER)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
