"""How long to wait before the next start."""


class Backoff:
    """Doubles with each failure, from ``first`` up to ``most`` seconds, until told that things went well."""

    __slots__ = ("_failures", "_first", "_most")

    def __init__(self, first: float = 0.1, most: float = 30.0) -> None:
        self._first = first
        self._most = most
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    def fail(self) -> float:
        """Count a failure; returns the seconds to wait."""
        self._failures += 1
        exponent = min(self._failures - 1, 30)
        return min(self._first * 2.0**exponent, self._most)

    def succeed(self) -> None:
        """Begin again from ``first``."""
        self._failures = 0
