"""What the cache of results needs from a database."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from server.domain.caching import Kept


class Trimmed(msgspec.Struct, frozen=True):
    """A cache after some of it was forgotten."""

    gone: tuple[str, ...]
    """Exact keys."""
    bytes: int
    """Of what is left."""
    entries: int


class CacheRepository(Protocol):
    """Remembers which pictures answered which request. It owns none of them: their names may lead nowhere any more."""

    async def find(self, key: str, since: float) -> Kept | None:
        """What was kept under the exact ``key`` at Unix time ``since`` or later."""
        ...

    async def find_loose(self, key: str, since: float) -> Kept | None:
        """Of what was kept under the loose ``key``, the one that was used last."""
        ...

    async def keep(self, kept: Kept) -> None:
        """Remember ``kept``, in the place of what has its exact key."""
        ...

    async def drop(self, kept: Kept) -> None:
        """Forget ``kept``, and nothing that was kept in its place since."""
        ...

    async def touch(self, used: Mapping[str, float]) -> None:
        """Those exact keys were used at those Unix times."""
        ...

    async def trim(self, since: float, most_bytes: int, most: int) -> Trimmed:
        """Forget what is older than Unix time ``since``, then what was not used for longest until the rest is in bounds."""
        ...
