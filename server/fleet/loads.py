"""How long it takes to bring a model onto a device, as far as it is known."""

UNKNOWN_SECONDS = 20.0
"""Guess for a model that has not been loaded yet: a queue may be so much longer before another worker loads it too."""


class LoadTimes:
    """Measured seconds by the name that workers know. Owned by the fleet, told by its workers."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}

    def note(self, name: str, seconds: float) -> None:
        """A load took so long; the latest one counts, as it says whether the weights still come from RAM."""
        self._latest[name] = seconds

    def expected(self, name: str) -> float:
        """Seconds for the next load."""
        return self._latest.get(name, UNKNOWN_SECONDS)
