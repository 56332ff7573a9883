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
    """Owns the state of one upstream's circuit. Whoever is let in must report `succeeded`, `failed` or `left`.

    Whether it was let in as a ``probe`` it says too: what began before the circuit opened, and ends only now, decides nothing.
    Who does not say may be the probe.
    """

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

    def admit(self) -> bool:
        """Let one request through, and say whether it is a probe; or raise `UpstreamUnavailable` with the time until the next."""
        if self._opened is None:
            return False
        left = self._opened + self._cool - self._clock.monotonic()
        if left > 0 or self._probing:
            msg = f"The upstream {self._name!r} has failed {self._failures} times in a row and is left alone for now."
            raise UpstreamUnavailable(msg, retry_after=max(left, 1.0))
        self._probing = True
        self._changed(State.HALF_OPEN)
        return True

    def succeeded(self, *, probe: bool = True) -> None:
        """It answered: whatever it said, it works."""
        if self._late(probe=probe):
            return
        self._failures, self._probing, self._cool = 0, False, COOL_SECONDS
        if self._opened is not None:
            self._opened = None
            self._changed(State.CLOSED)

    def failed(self, *, probe: bool = True) -> None:
        """It did not."""
        if self._late(probe=probe):
            return
        self._failures += 1
        probed, self._probing = self._probing, False
        if probed:
            self._cool = min(self._cool * 2, MOST_SECONDS)
        if probed or (self._opened is None and self._failures >= FAILURES):
            self._opened = self._clock.monotonic()
            self._changed(State.OPEN)

    def left(self, *, probe: bool = True) -> None:
        """Nothing was learned: the request was cancelled, or never sent."""
        if not self._late(probe=probe):
            self._probing = False

    def _late(self, *, probe: bool) -> bool:
        return self._opened is not None and not probe
