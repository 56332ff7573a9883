"""Time as a port, so that a test can set it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, in seconds."""

    def monotonic(self) -> float:
        """Never goes back; for durations."""
        ...

    def time(self) -> float:
        """Unix time; for what people and other processes read."""
        ...


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    def monotonic(self) -> float:
        """Read `time.monotonic`."""
        return time.monotonic()

    def time(self) -> float:
        """Read `time.time`."""
        return time.time()


class SetClock:
    """A clock that stands still until somebody moves it."""

    __slots__ = ("now",)

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        """The set time."""
        return self.now

    def time(self) -> float:
        """The set time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the time on."""
        self.now += seconds
