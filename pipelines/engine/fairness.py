"""Whose turn it is when several keys share the device: stride scheduling, weighted by the evaluations that wait.

C. Waldspurger, W. Weihl: Stride Scheduling: Deterministic Proportional-Share Resource Management, MIT/LCS/TM-528, 1995.
"""

from collections.abc import Collection

from pipelines.engine.row import Key


class Turns:
    """Owns each key's pass; the key with the lowest goes next."""

    __slots__ = ("_now", "_passes")

    def __init__(self) -> None:
        """No key is known yet."""
        self._passes: dict[Key, float] = {}
        self._now = 0.0

    def choose(self, waiting: Collection[Key]) -> Key:
        """The key whose turn it is among ``waiting`` (not empty), of equals the first.

        A key that was away starts level with the present, so that absence earns no burst.
        """
        for key in waiting:
            self._passes[key] = max(self._passes.get(key, self._now), self._now)
        chosen = min(waiting, key=self._passes.__getitem__)
        self._now = self._passes[chosen]
        return chosen

    def charge(self, key: Key, cost: int, weight: int) -> None:
        """Book a tick of ``cost`` evaluations to ``key``, where ``weight`` waited for one: all rows advance at the same pace."""
        self._passes[key] = self._passes.get(key, self._now) + cost / weight

    def forget(self, alive: set[Key]) -> None:
        """Drop keys without rows, so that the books stay as small as the work."""
        self._passes = {key: value for key, value in self._passes.items() if key in alive}
