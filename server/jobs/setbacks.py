"""Which batches went wrong lately: they wait a while, so that they hold up nobody else."""

from collections import OrderedDict

_MOST = 1000
"""More than that many are not told apart from those that are well."""


class Setbacks:
    """Counts, batch by batch, how often in a row feeding it has failed."""

    __slots__ = ("_patience", "_pause", "_waiting")

    def __init__(self, pause: float, patience: int) -> None:
        """A batch waits for ``pause`` seconds after each setback; after ``patience`` of them its lines are tried no more."""
        self._pause, self._patience = pause, patience
        self._waiting: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, batch_id: str, now: float) -> None:
        """It went wrong at ``now``, which like all times here is monotonic."""
        times, _ = self._waiting.pop(batch_id, (0, 0.0))
        self._waiting[batch_id] = (times + 1, now + self._pause)
        if len(self._waiting) > _MOST:
            self._waiting.popitem(last=False)

    def forget(self, batch_id: str) -> None:
        """It went well, or is no more."""
        self._waiting.pop(batch_id, None)

    def waits(self, batch_id: str, now: float) -> bool:
        """Whether it is not its turn yet."""
        return batch_id in self._waiting and self._waiting[batch_id][1] > now

    def hopeless(self, batch_id: str) -> bool:
        """Whether a line of it that cannot be made ready now never will be."""
        return self._waiting.get(batch_id, (0, 0.0))[0] >= self._patience
