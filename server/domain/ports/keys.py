"""Keys, as the doorkeeper needs them from a database."""

from typing import Protocol

from server.domain.key import Key


class KeyRepository(Protocol):
    """The keys of the database, as the doorkeeper sees them."""

    async def by_digest(self, digest: str) -> Key | None:
        """The key with that secret, live or not."""
        ...

    async def live(self, now: float) -> int:
        """How many keys open something at Unix time ``now``."""
        ...
