"""How many rows fit: predicted from measured memory, learned downwards from out-of-memory, and slowly upwards again."""

from collections.abc import Mapping

import msgspec

from pipelines.contract.messages import Phase
from pipelines.engine.row import Key

_CLEAN_TICKS = 500
"""After so many full batches without trouble a lowered budget grows by one: the memory may have been somebody else's."""

_MARGIN = 0.9
"""The share of the free memory that a prediction may fill: allocators waste some, and the next batch may choose other kernels."""

_NEWS = 1.02
"""A measure that differs by less than this factor from the known one changes nothing."""


class Measure(msgspec.Struct, frozen=True):
    """What a batch of ``size`` took in bytes, beside the weights."""

    size: int
    bytes: int


class Learned(msgspec.Struct, frozen=True):
    """What is known of one (phase, key)."""

    lowered: int | None = None
    """The budget that running out of memory has left."""
    few: Measure | None = None
    """The smallest batch measured."""
    many: Measure | None = None
    """The largest."""

    def fitting(self, free: int) -> int | None:
        """The largest batch that ``free`` bytes hold; None if nothing has been measured.

        Two batches give a line. One gives a line through nothing, which asks for more than a batch will need.
        """
        if self.few is None or self.many is None:
            return None
        slope, fixed = self.many.bytes / self.many.size, 0.0
        if self.many.size > self.few.size and self.many.bytes > self.few.bytes:
            slope = (self.many.bytes - self.few.bytes) / (self.many.size - self.few.size)
            fixed = self.few.bytes - slope * self.few.size
        return int((free * _MARGIN - fixed) / slope) if slope > 0 else None

    def with_measure(self, measure: Measure) -> "Learned":
        """Itself, unless ``measure`` is news."""
        few, many = self.few, self.many
        if few is None or measure.size < few.size or _news(few, measure):
            few = measure
        if many is None or measure.size > many.size or _news(many, measure):
            many = measure
        return msgspec.structs.replace(self, few=few, many=many)


class Budgets:
    """Owns the row budget of every (phase, key)."""

    __slots__ = ("_clean", "_free", "_learned", "changed")

    def __init__(self) -> None:
        """Nothing is known at first."""
        self._learned: dict[tuple[Phase, Key], Learned] = {}
        self._clean: dict[tuple[Phase, Key], int] = {}
        self._free: int | None = None
        self.changed = False
        """Whether something has been learned since this was last set to False."""

    def current(self, phase: Phase, key: Key, most: int) -> int:
        """The budget in force: at least 1, at most ``most``."""
        learned = self._learned.get((phase, key))
        if learned is None:
            return max(1, most)
        fitting = None if self._free is None else learned.fitting(self._free)
        return max(1, min(each for each in (most, learned.lowered, fitting) if each is not None))

    def measure(self, phase: Phase, key: Key, measure: Measure, free: int) -> None:
        """Note what a batch that went well took; ``free`` bytes were there for it."""
        self._free = free
        self._put(phase, key, self._learned.get((phase, key), Learned()).with_measure(measure))

    def shrink(self, phase: Phase, key: Key, attempted: int) -> int:
        """Halve what was attempted, and say what it is now."""
        lowered = max(1, attempted // 2)
        self._put(phase, key, msgspec.structs.replace(self._learned.get((phase, key), Learned()), lowered=lowered))
        self._clean[phase, key] = 0
        return lowered

    def succeed(self, phase: Phase, key: Key, size: int) -> None:
        """Note a batch that went well; only one that filled the lowered budget says anything."""
        learned = self._learned.get((phase, key))
        if learned is None or learned.lowered is None or size < learned.lowered:
            return
        self._clean[phase, key] = self._clean.get((phase, key), 0) + 1
        if self._clean[phase, key] >= _CLEAN_TICKS:
            self._put(phase, key, msgspec.structs.replace(learned, lowered=learned.lowered + 1))
            self._clean[phase, key] = 0

    def learned(self, model: str) -> Mapping[tuple[Phase, Key], Learned]:
        """What is known of ``model``."""
        return {where: what for where, what in self._learned.items() if where[1].model == model}

    def recall(self, model: str, learned: Mapping[tuple[Phase, Key], Learned]) -> None:
        """Take ``learned`` for all that is known of ``model``."""
        self._learned = {where: what for where, what in self._learned.items() if where[1].model != model} | dict(learned)

    def _put(self, phase: Phase, key: Key, learned: Learned) -> None:
        if self._learned.get((phase, key)) != learned:
            self._learned[phase, key] = learned
            self.changed = True


def _news(known: Measure, measure: Measure) -> bool:
    """Whether the same batch took clearly more; taking less is the caches' doing."""
    return measure.size == known.size and measure.bytes > known.bytes * _NEWS
