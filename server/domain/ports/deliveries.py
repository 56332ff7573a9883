"""The outbox, as the one who empties it needs it from a database."""

from typing import Protocol

from server.domain.webhook import Delivery


class DeliveryRepository(Protocol):
    """The outbox, as the one who empties it sees it."""

    async def claim(self, until: float, most: int) -> tuple[Delivery, ...]:
        """Take up to ``most`` messages that are due, the oldest first; nobody else tries them before ``until``."""
        ...

    async def note(self, delivery: Delivery) -> None:
        """Write down what became of an attempt; a receiver that is gone gets nothing any more."""
        ...

    async def next_due(self) -> float | None:
        """Unix time at which the next message is due; None if none waits."""
        ...
