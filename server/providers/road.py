"""One upstream that can be taken: its provider with everything around it."""

from typing import Protocol

import msgspec

from server.catalog.upstreams import Upstream
from server.providers.breaker import Breaker
from server.providers.lane import Lane
from server.providers.provider import Provider
from server.providers.succession import Ending, Listed, Succession


class Source(Provider, Protocol):
    """A provider that talks to an upstream."""

    async def listed(self) -> tuple[Listed, ...]:
        """The upstream's own list of models; empty if it has none that matters here."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


class UpstreamHealth(msgspec.Struct, frozen=True):
    """How it stands with an upstream, as far as that can be known without asking it."""

    name: str
    kind: str
    model: str
    """What is asked for there at present."""
    circuit: str
    """closed: requests go there; open: it is left alone; half_open: the next one is a probe."""
    active: int
    waiting: int
    checked: float | None
    """Unix time at which its list of models was last read."""
    ending: tuple[Ending, ...]
    """Models that are in use or successors, and gone or soon to be."""


class Road(msgspec.Struct, frozen=True):
    """The parts of one road."""

    upstream: Upstream
    provider: Provider
    """What requests go to."""
    source: Source
    """What it wraps, and what is closed at the end."""
    lane: Lane
    breaker: Breaker
    succession: Succession

    @property
    def health(self) -> UpstreamHealth:
        """As it is now."""
        return UpstreamHealth(
            name=self.upstream.name,
            kind=self.upstream.kind.value,
            model=self.succession.model,
            circuit=self.breaker.state.value,
            active=self.lane.active,
            waiting=self.lane.waiting,
            checked=self.succession.checked,
            ending=self.succession.endings,
        )
