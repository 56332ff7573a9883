"""Requests that may be sent again, as the core needs them from a database."""

from collections.abc import Iterable
from typing import Protocol

from server.domain.idempotency import Answer, Reservation


class IdempotencyRepository(Protocol):
    """Remembers what was answered to requests that may be sent again."""

    async def reserve(self, wanted: Reservation, lease: float, created_after: float) -> Reservation | Answer:
        """Take the key for ``wanted``, or the answer that it has; keys from before ``created_after`` are free.

        A key whose owner has fallen silent is taken over, with its resource. Raises `KeyInUse` or `KeyReused`.
        """
        ...

    async def answer(self, held: Reservation, answer: Answer) -> None:
        """Keep the answer, unless the key is another's by now."""
        ...

    async def release(self, held: Reservation) -> None:
        """The same request may come again at once."""
        ...

    async def renew(self, owner: str, resources: Iterable[str], lease: float) -> None:
        """Hold on to the keys of ``owner`` whose requests make those ``resources`` until ``lease``."""
        ...

    async def release_all(self) -> None:
        """Whoever held anything is known to be dead."""
        ...

    async def forget(self, created_before: float, most: int, most_bytes: int) -> int:
        """Delete what is older, and the oldest answers of tenants who have more, or more bytes, than that; how many."""
        ...
