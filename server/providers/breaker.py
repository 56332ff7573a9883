"""Leaves an upstream alone that does not work: a circuit breaker with half-open probes."""

from collections.abc import Callable
from enum import StrEnum

from server.domain.clock import Clock
from server.domain.failures import UpstreamUnavailable

FAILURES = 5
"""In a row, and the circuit opens."""
COOL_SECONDS = 15.0
"""For so long at first; each probe that fails doubles it."""
MOST_SECONDS = 300.0


class State(StrEnum):
    """Closed lets everything through, open nothing, half-open one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Owns the state of one upstream's circuit. Whoever is let in must report `succeeded`, `failed` or `left`."""

    __slots__ = ("_changed", "_clock", "_cool", "_failures", "_name", "_opened", "_probing")

    def __init__(self, name: str, clock: Clock, changed: Callable[[State], None] = lambda _state: None) -> None:
        self._name, self._clock, self._changed = name, clock, changed
        self._failures = 0
        self._cool = COOL_SECONDS
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """As it is now."""
        if self._opened is None:
            return State.CLOSED
        return State.HALF_OPEN if self._clock.monotonic() >= self._opened + self._cool else State.OPEN

    def admit(self) -> None:
        """Let one request through, or raise `UpstreamUnavailable` with the time until the next probe."""
        if self._opened is None:
            return
        left = self._opened + self._cool - self._clock.monotonic()
        if left > 0 or self._probing:
            msg = f"The upstream {self._name!r} has failed {self._failures} times in a row and is left alone for now."
            raise UpstreamUnavailable(msg, retry_after=max(left, 1.0))
        self._probing = True
        self._changed(State.HALF_OPEN)

    def succeeded(self) -> None:
        """It answered: whatever it said, it works."""
        self._failures, self._probing, self._cool = 0, False, COOL_SECONDS
        if self._opened is not None:
            self._opened = None
            self._changed(State.CLOSED)

    def failed(self) -> None:
        """It did not."""
        self._failures += 1
        probe, self._probing = self._probing, False
        if probe:
            self._cool = min(self._cool * 2, MOST_SECONDS)
        if probe or (self._opened is None and self._failures >= FAILURES):
            self._opened = self._clock.monotonic()
            self._changed(State.OPEN)

    def left(self) -> None:
        """Nothing was learned: the request was cancelled, or never sent."""
        self._probing = False
