"""The outbox: messages that were written in the same transaction as what they tell of."""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from msgspec.structs import asdict
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.db.database import Database
from server.db.tables import WEBHOOKS
from server.domain.clock import Clock
from server.domain.job import Job
from server.domain.webhook import Delivery, DeliveryState

Compose = Callable[[Job], Awaitable[bytes]]
"""The body that tells of a job that is over."""


class Ends(Protocol):
    """Hears how jobs ended, in the transaction that ends them."""

    async def put(self, connection: AsyncConnection, jobs: Iterable[Job], now: float) -> None:
        """Write what follows from it; jobs that are not over are passed over."""
        ...


class Outbox:
    """Puts a message for each job that is over and whose client wants to hear of it."""

    __slots__ = ("_compose",)

    def __init__(self, compose: Compose) -> None:
        self._compose = compose

    async def put(self, connection: AsyncConnection, jobs: Iterable[Job], now: float) -> None:
        """Write the messages of ``jobs`` into the transaction at hand."""
        messages = [
            Delivery(new_message(), job.id, job.order.tenant, job.order.notify.url, await self._compose(job), now, now)
            for job in jobs
            if job.order.notify is not None and job.state.final
        ]
        await insert_messages(connection, messages)


def new_message() -> str:
    """An id for a message: the receiver's mark to know it again."""
    return f"msg_{secrets.token_hex(12)}"


async def insert_messages(connection: AsyncConnection, messages: Iterable[Delivery]) -> None:
    """Write ``messages`` into the transaction at hand."""
    rows = [_columns(message) for message in messages]
    if rows:
        await connection.execute(insert(WEBHOOKS), rows)


class SqlDeliveries:
    """A `DeliveryRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_clock", "_database")

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    async def claim(self, until: float, most: int) -> tuple[Delivery, ...]:
        """Take up to ``most`` messages that are due, the oldest first; nobody else tries them before ``until``."""
        due = (
            select(WEBHOOKS)
            .where(WEBHOOKS.c.state == DeliveryState.PENDING.value, WEBHOOKS.c.due <= self._clock.time())
            .order_by(WEBHOOKS.c.due)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        async with self._database.writing() as connection:
            found = [_delivery(row) for row in (await connection.execute(due)).all()]
            if found:
                ids = [each.id for each in found]
                await connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.id.in_(ids)).values(due=until))
        return tuple(found)

    async def note(self, delivery: Delivery) -> None:
        """Write down what became of an attempt."""
        values = _columns(delivery)
        async with self._database.writing() as connection:
            await connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.id == delivery.id).values(values))
            if delivery.state is DeliveryState.DISABLED:
                # Whoever is gone is gone for every message that waits for it.
                others = (
                    (WEBHOOKS.c.url == delivery.url)
                    & (WEBHOOKS.c.tenant == delivery.tenant)
                    & (WEBHOOKS.c.state == DeliveryState.PENDING.value)
                )
                await connection.execute(update(WEBHOOKS).where(others).values(state=DeliveryState.DISABLED.value))

    async def again(self, delivery_id: str) -> Delivery | None:
        """Have a message sent once more from the first attempt on, whatever became of it; None if it is not known."""
        now = self._clock.time()
        async with self._database.writing() as connection:
            found = (await connection.execute(select(WEBHOOKS).where(WEBHOOKS.c.id == delivery_id).with_for_update())).first()
            if found is None:
                return None
            changes = {"state": DeliveryState.PENDING.value, "attempts": 0, "due": now}
            await connection.execute(update(WEBHOOKS).where(WEBHOOKS.c.id == delivery_id).values(changes))
        return _delivery(found)

    async def newest(self, most: int, *, state: DeliveryState | None = None, job_id: str | None = None) -> tuple[Delivery, ...]:
        """The latest messages, in one state or of one job if so asked."""
        query = select(WEBHOOKS).order_by(WEBHOOKS.c.created.desc(), WEBHOOKS.c.id).limit(most)
        if state is not None:
            query = query.where(WEBHOOKS.c.state == state.value)
        if job_id is not None:
            query = query.where(WEBHOOKS.c.job_id == job_id)
        async with self._database.reading() as connection:
            return tuple(_delivery(row) for row in (await connection.execute(query)).all())

    async def next_due(self) -> float | None:
        """Unix time at which the next message is due; None if none waits."""
        query = select(WEBHOOKS.c.due).where(WEBHOOKS.c.state == DeliveryState.PENDING.value).order_by(WEBHOOKS.c.due).limit(1)
        async with self._database.reading() as connection:
            found: float | None = (await connection.execute(query)).scalar()
            return found


def _columns(delivery: Delivery) -> dict[str, Any]:
    return {**asdict(delivery), "state": delivery.state.value}


def _delivery(row: Any) -> Delivery:
    return Delivery(**{**row._mapping, "state": DeliveryState(row.state)})  # noqa: SLF001 - SQLAlchemy's public name for it
