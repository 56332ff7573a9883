"""Who runs next. No tensors, no clock of its own: every decision can be tested by hand.

Between two ticks there is at most one encode, one decode and one enlarge batch, so newcomers join quickly, finished rows leave
quickly, and nobody's tick waits for a long queue of any. Within a tick the order is priority, deadline, age; a row that does not
fit any more is passed over for one that does. A row overtaken too often leads the next batch, whatever its priority: nothing
starves.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import msgspec

from pipelines.contract.messages import Phase
from pipelines.engine.batch import Batch
from pipelines.engine.budgets import Budgets, Measure
from pipelines.engine.fairness import Turns
from pipelines.engine.row import Course, Demand, Row, RowId
from pipelines.memory.turnover import Turnover

_NO_COURSES: Mapping[RowId, Course] = MappingProxyType({})


class Policy(msgspec.Struct, frozen=True):
    """What the scheduler may be told."""

    buckets: tuple[int, ...] = ()
    """Pad a tick's evaluations to the next of these; empty for no padding (a CPU gains nothing from it)."""
    encode_rows: int = 8
    """Rows in one encode batch at most."""
    decode_rows: int = 4
    """Rows in one decode batch at most; they are decoded one by one."""
    active_rows: int = 64
    """Rows between encode and decode at most; the others wait without holding device memory."""
    patience: int = 64
    """Batches in which a row may be overtaken before it leads one."""
    turnover: Turnover = Turnover()
    """When models take turns on the device; it is `pipelines.engine.models` that obeys it."""


class Scheduler:
    """Owns every row between its arrival and its end."""

    def __init__(self, policy: Policy = Policy(), budgets: Budgets | None = None) -> None:  # noqa: B008 - a frozen struct
        """Start without rows; ``budgets`` may know something already."""
        self._policy = policy
        self._rows: dict[RowId, Row] = {}
        self._most: dict[str, int] = {}
        self._budgets = Budgets() if budgets is None else budgets
        self._turns = Turns()
        self._since_tick: set[Phase] = set()
        self._held: AbstractSet[str] = frozenset()
        self._held_rows: AbstractSet[RowId] = frozenset()

    def __len__(self) -> int:
        """Rows that are not finished."""
        return len(self._rows)

    def limit(self, model: str, max_rows: int) -> None:
        """Evaluations in one tick of ``model`` at most."""
        self._most[model] = max_rows

    def hold(self, models: AbstractSet[str], rows: AbstractSet[RowId] = frozenset()) -> None:
        """From now on ``rows`` and those of ``models``, and no others, wait with their beginning; rows that have begun go on."""
        self._held, self._held_rows = models, rows

    def demand(self) -> dict[str, Demand]:
        """What there is to do for each model that has rows."""
        found: dict[str, tuple[int, int]] = {}
        for row in self._rows.values():
            if row.modelless:
                continue
            work, begun = found.get(row.key.model, (0, 0))
            found[row.key.model] = (work + row.left, begun + row.bound)
        return {model: Demand(work, begun) for model, (work, begun) in found.items()}

    def add(self, rows: Iterable[Row]) -> None:
        """Take over new rows."""
        self._rows.update((row.id, row) for row in rows)

    def remove(self, ids: Iterable[RowId]) -> list[Row]:
        """Let go of rows, wherever they are; unknown ids are ignored."""
        gone = [row for id_ in ids if (row := self._rows.pop(id_, None)) is not None]
        self._turns.forget({row.key for row in self._rows.values()})
        return gone

    def rows(self, request: str | None = None) -> list[Row]:
        """The unfinished rows, of one request or of all."""
        return [row for row in self._rows.values() if request is None or row.request.id == request]

    def schedule(self) -> Batch | None:
        """The next batch, or None when there is nothing to do."""
        by_phase: dict[Phase, list[Row]] = {phase: [] for phase in Phase}
        for row in self._rows.values():
            if not self._waits(row):
                by_phase[row.phase].append(row)
        ready = by_phase[Phase.DENOISE]
        if by_phase[Phase.DECODE] and (Phase.DECODE not in self._since_tick or not ready):
            return self._phase(Phase.DECODE, by_phase[Phase.DECODE], self._policy.decode_rows)
        # A row that changes models, or begins again, holds its tensors already: it needs no room.
        changing = [row for row in by_phase[Phase.ENCODE] if row.begun]
        room = self._policy.active_rows - len(ready) - len(by_phase[Phase.DECODE]) - len(changing)
        joining = by_phase[Phase.ENCODE] if room > 0 else changing
        if joining and (Phase.ENCODE not in self._since_tick or not ready):
            most = self._policy.encode_rows
            return self._phase(Phase.ENCODE, joining, min(room, most) if room > 0 else most)
        if by_phase[Phase.ENLARGE] and (Phase.ENLARGE not in self._since_tick or not ready):
            return self._phase(Phase.ENLARGE, by_phase[Phase.ENLARGE], 1)
        return self._tick(ready) if ready else None

    def measured(self, batch: Batch, peak_bytes: int, free_bytes: int) -> None:
        """Learn from what a batch that went well took of the device, and from what there was for it."""
        measure = Measure(max(min(batch.size, batch.budget), batch.bucket), peak_bytes)
        self._budgets.measure(batch.phase, batch.key, measure, free_bytes)

    def update(
        self,
        batch: Batch,
        *,
        advanced: Mapping[RowId, int],
        out_of_memory: bool,
        fault: bool,
        courses: Mapping[RowId, Course] = _NO_COURSES,
        switches: Mapping[RowId, int] = MappingProxyType({}),
    ) -> list[Row]:
        """Account for a batch: move rows on, learn from trouble; returns the rows for which there is no hope.

        The caller removes those, and finished ones, with `remove`.
        """
        self._since_tick = set() if batch.phase is Phase.DENOISE else self._since_tick | {batch.phase}
        left = [row for row in batch.rows if row.id not in advanced]
        for row in batch.rows:
            if row.id in advanced:
                row.suspect = False
                row.overtaken = 0
                row.course = courses.get(row.id, row.course)
                self.add(row.went(advanced[row.id], switches.get(row.id)))
        self._note_overtaken(batch)
        if batch.phase is Phase.DENOISE:
            ran = {row.id for row in batch.rows}
            others = (row for row in self._rows.values() if row.key == batch.key and row.phase is Phase.DENOISE)
            # Of each row its next step, not all that are left: else a short job beside a long one is done only when that is.
            self._turns.charge(batch.key, batch.size, batch.size + sum(row.cost for row in others if row.id not in ran))
        if out_of_memory:
            hopeless = batch.budget == 1 or batch.size == 1
            attempted = min(batch.size, batch.budget)
            self._budgets.shrink(batch.phase, batch.key, attempted)
            return left[:1] if hopeless else []
        if fault:
            if len(batch.rows) == 1:
                return left
            for row in left:
                row.suspect = True
            return []
        self._budgets.succeed(batch.phase, batch.key, batch.size)
        return []

    def _phase(self, phase: Phase, rows: list[Row], most: int) -> Batch:
        lead = self._lead(rows)
        budget = self._budgets.current(phase, lead.key, most)
        alike = [lead, *sorted((r for r in rows if r is not lead and r.key == lead.key), key=lambda r: r.urgency)]
        return Batch(phase, lead.key, tuple(_alone_if_suspect(alike)[:budget]), budget)

    def _tick(self, ready: list[Row]) -> Batch:
        lead = self._lead(ready)
        if lead.overtaken < self._policy.patience:
            key = self._turns.choose(dict.fromkeys(row.key for row in ready if row.request.priority == lead.request.priority))
            lead = min((row for row in ready if row.key == key), key=lambda r: r.urgency)
        budget = self._budgets.current(Phase.DENOISE, lead.key, self._most.get(lead.key.model, 1))
        others = sorted((r for r in ready if r is not lead and r.key == lead.key), key=lambda r: r.urgency)
        taken: list[Row] = []
        room = budget
        for row in _alone_if_suspect([lead, *others]):
            if row.cost <= room or not taken:
                taken.append(row)
                room -= row.cost
            if room <= 0:
                break
        size = sum(row.cost for row in taken)
        fitting = [bucket for bucket in self._policy.buckets if size <= bucket <= budget]
        return Batch(
            Phase.DENOISE,
            lead.key,
            tuple(taken),
            budget,
            bucket=min(fitting, default=0),
            buckets=self._policy.buckets if fitting else (),
            previews=frozenset(row.id for row in taken if _preview_due(row)),
            costs=tuple(row.cost for row in taken),
        )

    def _lead(self, rows: list[Row]) -> Row:
        """The row that decides the batch: the most overtaken one past all patience, else the most urgent."""
        most = max(rows, key=lambda row: (row.overtaken, -row.order))
        return most if most.overtaken >= self._policy.patience else min(rows, key=lambda row: row.urgency)

    def _note_overtaken(self, batch: Batch) -> None:
        ran = {row.id for row in batch.rows}
        youngest = max(row.order for row in batch.rows)
        for row in self._rows.values():
            if row.phase is batch.phase and row.order < youngest and row.id not in ran and not self._waits(row):
                row.overtaken += 1

    def _waits(self, row: Row) -> bool:
        """Whether its model, an adapter, or its tiles are not there to go on with it."""
        if row.phase is not Phase.ENCODE:
            return row.awaited > 0
        unserved = row.key.model in self._held and not row.bound and not row.modelless
        return unserved or row.id in self._held_rows


def _alone_if_suspect(rows: list[Row]) -> list[Row]:
    """The first row alone if it is suspect, else it and the rows that are not."""
    return rows[:1] if rows[0].suspect else [row for row in rows if not row.suspect]


def _preview_due(row: Row) -> bool:
    every = row.request.preview_every
    if every < 1 or row.position + 1 >= row.total or row.whole is not None:
        return False
    return row.next_step > row.step and row.next_step % every == 0
