"""What the scheduler hands the runner, and what comes back."""

import msgspec

from pipelines.contract.errors import ErrorReport
from pipelines.contract.messages import Phase
from pipelines.contract.picture import Picture
from pipelines.engine.row import Course, Key, Row, RowId


class Batch(msgspec.Struct, frozen=True):
    """Rows for one tick, or one batch of another phase. All share ``key``."""

    phase: Phase
    key: Key
    rows: tuple[Row, ...]
    budget: int
    """Denoise: network evaluations in one forward at most; only a single guided row may need more, in forwards of its own.
    Else: rows at most."""
    bucket: int = 0
    """Denoise: pad the evaluations to this many; 0 for no padding."""
    buckets: tuple[int, ...] = ()
    """Denoise: what a part of them is padded to, where they cannot all share a forward: the smallest of these that holds it."""
    previews: frozenset[RowId] = frozenset()
    """Rows whose watchers want a look after this tick."""
    costs: tuple[int, ...] = ()
    """Denoise: each row's evaluations, as they were when the batch was made; a row's next tick may cost less or more."""

    @property
    def size(self) -> int:
        """What the budget counts: evaluations in a tick, else rows."""
        return sum(self.costs) if self.phase is Phase.DENOISE else len(self.rows)


class Outcome(msgspec.Struct, frozen=True):
    """What became of a batch. Rows named nowhere are as they were before it and may run again."""

    seconds: float
    advanced: dict[RowId, int] = {}
    """Rows that succeeded. Encode: how many evaluations the row will take in this pass. Denoise, decode: how many it has done.
    Enlarge: how many pieces are left."""
    courses: dict[RowId, Course] = {}
    """Encode: what is known of the rows' ways now."""
    switches: dict[RowId, int] = {}
    """Encode: after how many evaluations a row's refiner takes over; rows without one are not named."""
    pictures: dict[RowId, Picture] = {}
    """Decode and enlarge: the finished images."""
    previews: dict[RowId, Picture] = {}
    failed: dict[RowId, ErrorReport] = {}
    """Rows that cannot go on, each by its own fault."""
    out_of_memory: bool = False
    """The rest did not fit; run it again with less."""
    fault: ErrorReport | None = None
    """The rest failed together for a reason that may be one row's alone."""
    padded: int = 0
    peak_bytes: int | None = None
    """What it took of the device beside the weights; None if nobody knows."""
    free_bytes: int = 0
    """What there was for it."""
