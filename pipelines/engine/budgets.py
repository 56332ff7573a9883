"""How many rows fit: learned downwards from out-of-memory, and slowly upwards again."""

from pipelines.contract.messages import Phase
from pipelines.engine.row import Key

_CLEAN_TICKS = 500
"""After so many full batches without trouble a lowered budget grows by one: the memory may have been somebody else's."""


class Budgets:
    """Owns the row budget of every (phase, key)."""

    __slots__ = ("_clean", "_lowered")

    def __init__(self) -> None:
        """Nothing is lowered at first."""
        self._lowered: dict[tuple[Phase, Key], int] = {}
        self._clean: dict[tuple[Phase, Key], int] = {}

    def current(self, phase: Phase, key: Key, most: int) -> int:
        """The budget in force: at least 1, at most ``most``."""
        return max(1, min(most, self._lowered.get((phase, key), most)))

    def shrink(self, phase: Phase, key: Key, attempted: int) -> int:
        """Halve what was attempted, and say what it is now."""
        self._lowered[phase, key] = max(1, attempted // 2)
        self._clean[phase, key] = 0
        return self._lowered[phase, key]

    def succeed(self, phase: Phase, key: Key, size: int) -> None:
        """Note a batch that went well; only one that filled the lowered budget says anything."""
        lowered = self._lowered.get((phase, key))
        if lowered is None or size < lowered:
            return
        self._clean[phase, key] += 1
        if self._clean[phase, key] >= _CLEAN_TICKS:
            self._lowered[phase, key] = lowered + 1
            self._clean[phase, key] = 0
