"""Who may do what: keys, and the callers who present them."""

from enum import StrEnum

import msgspec


class Scope(StrEnum):
    """What a key opens."""

    GENERATE = "generate"
    """Make pictures, look at and cancel one's own jobs."""
    JOBS_READ = "jobs:read"
    """Look at one's own jobs and their results, and nothing else."""
    ADMIN = "admin"
    """Load and unload models, too."""


class Key(msgspec.Struct, frozen=True):
    """One key, without its secret: that is known to its owner only."""

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    created: float
    """Unix time."""
    models: tuple[str, ...] = ()
    """Models that it may use; empty for all."""
    expires: float | None = None
    revoked: float | None = None

    def live(self, now: float) -> bool:
        """Whether it opens anything at Unix time ``now``."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Caller(msgspec.Struct, frozen=True):
    """Who makes a request."""

    tenant: str
    scopes: frozenset[Scope]
    models: frozenset[str] = frozenset()
    """Empty: all."""

    def may(self, scope: Scope) -> bool:
        """Whether the key that was presented opens ``scope``; `Scope.GENERATE` opens reading too."""
        wanted = {scope, Scope.ADMIN} | ({Scope.GENERATE} if scope is Scope.JOBS_READ else set())
        return bool(wanted & self.scopes)

    def may_use(self, model: str) -> bool:
        """Whether it may make pictures with ``model``."""
        return not self.models or model in self.models


EVERYONE = Caller("local", frozenset(Scope))
"""Where no key is needed."""
