"""API keys: known only as digests, compared in constant time, remembered for a second."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

import msgspec

from server.domain.clock import Clock
from server.domain.key import EVERYONE, Caller, Key, Scope
from server.domain.ports.keys import KeyRepository

FRESH_SECONDS = 1.0
"""How long what the database said is believed: so soon a revoked key opens nothing any more."""

_REMEMBERED = 10_000
_PREFIX = "sk-aquatint-"


class _Known(msgspec.Struct, frozen=True):
    key: Key | None
    asked: float
    """Monotonic."""


class KeyRing:
    """The keys that open this server: those of its settings, and those of the database."""

    __slots__ = ("_clock", "_known", "_live", "_may_be_open", "_repository", "_static")

    def __init__(self, static: Iterable[str], repository: KeyRepository, clock: Clock, *, may_be_open: bool) -> None:
        """``static`` keys may do everything. ``may_be_open``: as long as there is no key at all, everyone may enter."""
        self._static = tuple(digest(key) for key in static)
        self._repository, self._clock, self._may_be_open = repository, clock, may_be_open
        self._known: dict[str, _Known] = {}
        self._live: tuple[int, float] | None = None

    async def caller(self, presented: str | None) -> Caller | None:
        """Who presents this key; None if it opens nothing."""
        if await self.open():
            return EVERYONE
        if not presented:
            return None
        shown = digest(presented)
        # Every key is compared, so that the time does not tell which one came close.
        matches = [hmac.compare_digest(shown, known) for known in self._static]
        if any(matches):
            # Named by what it is, not by its place in the list: that may change, and with it whose jobs and uploads are whose.
            return Caller(f"key-{shown[:16]}", frozenset(Scope))
        key = await self._look_up(shown)
        if key is None or not key.live(self._clock.time()):
            return None
        return Caller(key.tenant, frozenset(key.scopes), frozenset(key.models))

    async def open(self) -> bool:
        """Whether no key is needed."""
        return self._may_be_open and not self._static and await self.live() == 0

    async def live(self) -> int:
        """How many keys of the database open something, at most `FRESH_SECONDS` ago."""
        now = self._clock.monotonic()
        if self._live is None or now - self._live[1] >= FRESH_SECONDS:
            self._live = (await self._repository.live(self._clock.time()), now)
        return self._live[0]

    async def _look_up(self, shown: str) -> Key | None:
        now = self._clock.monotonic()
        known = self._known.get(shown)
        if known is None or now - known.asked >= FRESH_SECONDS:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[shown] = _Known(await self._repository.by_digest(shown), now)
        return known.key


def new_secret() -> str:
    """256 random bits, as a caller presents them."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is kept of a secret: hexadecimal SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()
