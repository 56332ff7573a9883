"""Whether a request may be answered by an earlier picture, whether it was, and what is kept for that."""

from enum import StrEnum

import msgspec

from server.domain.asset import Asset
from server.domain.generation import Route, Usage
from server.domain.verdict import Verdict


class CacheUse(StrEnum):
    """What a caller accepts instead of a picture of its own."""

    EXACT = "exact"
    """The very same request, its seeds included."""
    ANY = "any"
    """The same request with whatever seeds."""
    OFF = "off"
    """Nothing; and nothing is kept of it."""


class CacheResult(StrEnum):
    """By which way a request got its pictures."""

    HIT = "hit"
    """They were there."""
    SHARED = "shared"
    """The same request was being made for somebody else at that moment, and its pictures were given to both."""
    MISS = "miss"
    """They were made, and are kept for the next one if they are what was wanted (`server.gateway.lasting`)."""
    OFF = "off"
    """They were made, and nothing was looked for or kept."""


class Keys(msgspec.Struct, frozen=True):
    """Two digests of a request and of everything else that decides its pictures."""

    exact: str
    loose: str
    """Without the values of the seeds."""


class Kept(msgspec.Struct, frozen=True):
    """The pictures of one request, as the cache remembers them."""

    keys: Keys
    tenant: str
    assets: tuple[Asset, ...]
    route: Route
    usage: Usage
    """What it cost to make them."""
    created: float
    """Unix time."""
    verdicts: tuple[Verdict, ...] = ()
    """What moderation said of them."""

    @property
    def bytes(self) -> int:
        """What it counts against the budget."""
        return sum(asset.size for asset in self.assets)
