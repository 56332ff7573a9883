"""What moderation decided, as the core needs it from a database."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from server.domain.decision import Decision, DecisionFilter, DecisionPage, Passed


@runtime_checkable
class DecisionRepository(Protocol):
    """Remembers what moderation decided."""

    async def add(self, decision: Decision) -> None:
        """Insert ``decision``."""
        ...

    async def count(self, allowed: Mapping[tuple[str, str, str], int]) -> None:
        """Add to the numbers of what was let pass, by day (``2026-01-31``, UTC), tenant and stage."""
        ...

    async def passed(self, tenant: str | None, most: int) -> tuple[Passed, ...]:
        """The newest ``most`` of those numbers, of one tenant or of all together."""
        ...

    async def page(self, wanted: DecisionFilter, after: tuple[float, str] | None, most: int) -> DecisionPage:
        """The newest ``most`` decisions that ``wanted`` describes, from the one after ``after`` (time and id) on."""
        ...

    async def forget(self, before: float) -> int:
        """Delete what was decided before that Unix time, some at once; how many rows went."""
        ...
