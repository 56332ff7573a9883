"""How fast work gets done, for placement and for an honest Retry-After."""

from server.domain.clock import Clock

_MEMORY_SECONDS = 60.0
_TYPICAL = 2e6
"""Pixel-steps a second of a small CPU: only until the first measurement."""


class Pace:
    """Work done per busy second, fading over a minute. Work is counted in pixel-steps (width x height x evaluations)."""

    __slots__ = ("_busy", "_clock", "_done", "_since")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._done = 0.0
        self._busy = 0.0
        self._since = clock.monotonic()

    def add(self, work: float, seconds: float) -> None:
        """Note ``work`` done in ``seconds`` of device time."""
        now = self._clock.monotonic()
        keep = 0.5 ** ((now - self._since) / _MEMORY_SECONDS)
        self._since = now
        self._done = self._done * keep + work
        self._busy = self._busy * keep + seconds

    @property
    def rate(self) -> float:
        """Pixel-steps a second."""
        return self._done / self._busy if self.measured else _TYPICAL

    @property
    def measured(self) -> bool:
        """Whether `rate` is more than a guess."""
        return self._busy > 0 and self._done > 0
