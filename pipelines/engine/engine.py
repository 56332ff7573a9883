"""The engine: commands in, one batch at a time, events out.

Models come and go beside the ticks (`pipelines.engine.models`): a request for one that is not on the device waits for it in the
scheduler.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from pipelines.adapters.references import asked
from pipelines.contract.catalog import ModelCard
from pipelines.contract.control_rules import check_controls
from pipelines.contract.errors import (
    AquatintError,
    Cancelled,
    DeadlineExceeded,
    EngineFailure,
    InvalidRequest,
    OutOfMemory,
    ShuttingDown,
    UnknownModel,
)
from pipelines.contract.inpainting import check
from pipelines.contract.messages import (
    Completed,
    Event,
    Failed,
    ImageDone,
    ModelUnloaded,
    Phase,
    Preview,
    Progress,
    Tick,
)
from pipelines.contract.request import ImageRequest
from pipelines.engine import passes
from pipelines.engine.adapters import Adapters
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.loader import InlineLoader
from pipelines.engine.models import Models
from pipelines.engine.notes import Notes
from pipelines.engine.row import Row, RowId, rows_of
from pipelines.engine.runner import Runner
from pipelines.engine.scheduler import Scheduler
from pipelines.engine.tracker import Tracker
from pipelines.memory.ledger import Ledger
from pipelines.memory.residency import Residency


class Engine:
    """Owns the scheduler, the runner and the books on requests. Single-threaded: call it from one place."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler | None = None,
        models: Models | None = None,
        notes: Notes | None = None,
        adapters: Adapters | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` measures durations, ``wall`` (Unix seconds) is what deadlines are held against.

        Without ``models`` or ``adapters`` the device has no budget for them, and loading is done within `step`. ``notes`` keep
        what the budgets of the scheduler learn.
        """
        self._runner = runner
        self._scheduler = Scheduler() if scheduler is None else scheduler
        self._tracker = Tracker()
        self._models = models or Models(runner, Residency(Ledger()), InlineLoader(clock), clock=clock)
        self._adapters = adapters or Adapters(runner, InlineLoader(clock))
        self._notes = notes
        self._clock = clock
        self._wall = wall
        self._arrivals = 0
        self._draining = False
        self._quiet = False

    @property
    def busy(self) -> bool:
        """Whether requests are in flight; those that wait for a model count."""
        return len(self._scheduler) > 0

    def wait_seconds(self) -> float | None:
        """How long `step` will have nothing to do unless something arrives: 0 if it has now, None for ever."""
        if not self._quiet:
            return 0.0
        deadline = self._tracker.next_deadline()
        until_late = None if deadline is None else max(0.0, deadline - self._wall())
        waits = [each for each in (until_late, self._models.wait_seconds(self._scheduler.demand())) if each is not None]
        return min(waits, default=None)

    def load(self, card: ModelCard) -> list[Event]:
        """Make ``card`` known and load its model; progress and result are events of later steps."""
        self._take_on(card)
        return self._models.know(card, load=True)

    def know(self, card: ModelCard) -> list[Event]:
        """Make ``card`` known; its model is loaded when a request needs it."""
        self._take_on(card)
        return self._models.know(card, load=False)

    def adopt(self, card: ModelCard) -> None:
        """Take on a model that was given to the runner itself; it never leaves."""
        self._scheduler.limit(card.id, card.limits.max_rows)
        self._models.adopt(card)

    def unload(self, model: str) -> list[Event]:
        """Let go of a model once what it has begun is done; it stays known."""
        return self._models.unload(model)

    def generate(self, request: ImageRequest) -> list[Event]:
        """Take on ``request``; the events are empty unless it is refused."""
        refusal = self._refusal(request)
        if refusal is not None:
            return [Failed(request.id, refusal.report())]
        self._tracker.open(request, self._clock())
        rows = rows_of(request, self._arrivals)
        self._arrivals += len(rows)
        self._scheduler.add(rows)
        self._quiet = False
        return []

    def cancel(self, request: str) -> list[Event]:
        """Drop a request; nothing happens if it is not in flight."""
        return self._fail(request, Cancelled("The request was cancelled.")) if request in self._tracker else []

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    def step(self) -> list[Event]:
        """Decide, compute, account: one batch, and what it means for the requests."""
        events = [*self._expire(), *self._turn_over()]
        batch = self._scheduler.schedule()
        self._quiet = batch is None and not events
        if batch is None:
            return events
        began = self._clock()
        alone = not self._models.loading and not self._adapters.loading
        outcome = self._runner.run(batch)
        if alone and outcome.peak_bytes is not None and not outcome.out_of_memory and outcome.fault is None:
            self._scheduler.measured(batch, outcome.peak_bytes, outcome.free_bytes)
        self._tracker.charge(batch, began, self._clock())
        self._models.used(batch.key.model)
        events += self._account(batch, outcome)
        if self._notes is not None:
            self._notes.keep()
        return events

    def _refusal(self, request: ImageRequest) -> AquatintError | None:
        if self._draining:
            return ShuttingDown("This worker is finishing its work and takes no more.")
        for model, param in zip(request.models, ("model", "refiner"), strict=False):
            if model not in self._models:
                return UnknownModel(f"Model {model!r} is not known here.", param=param)
        if request.id in self._tracker:
            return InvalidRequest(f"Request {request.id!r} is already in flight.")
        mistake = _mistake(request) or asked.mistake(request, self._models.family(request.model))
        if mistake is not None:
            return mistake
        try:
            check_controls(request.controls, self._models.family(request.model))
        except InvalidRequest as error:
            return error
        return next((refusal for model in request.models if (refusal := self._models.refusal(model)) is not None), None)

    def _turn_over(self) -> list[Event]:
        """Let models and adapters come and go; hold the rows that wait for one, fail those for which it will not come."""
        demand = self._scheduler.demand()
        change = self._models.advance(demand)
        events = list(change.events)
        for model, error in change.failed.items():
            waiting = dict.fromkeys(row.request.id for row in self._scheduler.rows() if row.key.model == model)
            events += [event for request in waiting for event in self._fail(request, error)]
        for event in change.events:
            if isinstance(event, ModelUnloaded):
                self._adapters.forget(event.model)
        adapters = self._adapters.advance(self._scheduler.rows(), self._models.open)
        events += adapters.events
        for id_, error in adapters.failed.items():
            events += self._fail(id_, error)
        self._scheduler.hold({model for model in demand if not self._models.open(model)}, adapters.held)
        return events

    def _take_on(self, card: ModelCard) -> None:
        self._scheduler.limit(card.id, card.limits.max_rows)
        if self._notes is not None:
            self._notes.recall(card)

    def _account(self, batch: Batch, outcome: Outcome) -> list[Event]:
        before = {row.image_row: row.image_row.step for row in batch.rows}
        hopeless = self._scheduler.update(
            batch,
            advanced=outcome.advanced,
            out_of_memory=outcome.out_of_memory,
            fault=outcome.fault is not None,
            courses=outcome.courses,
            switches=outcome.switches,
        )
        events: list[Event] = [self._tick(batch, outcome)]
        if batch.phase is Phase.DENOISE:
            events += self._progress(outcome, before)
        for row in batch.rows:
            if row.id in outcome.pictures:
                events += self._finish(row, outcome)
            elif row.tile is not None and batch.phase is Phase.DECODE and row.id in outcome.advanced:
                self._let_go([row.id])
        for (request, _), report in outcome.failed.items():
            events += self._fail(request, report.to_exception())
        for row in hopeless:
            events += self._fail(row.request.id, _hopeless(row, outcome))
        return events

    def _progress(self, outcome: Outcome, before: Mapping[Row, int]) -> Iterable[Event]:
        for row, step in before.items():
            if row.step > step:
                yield Progress(row.request.id, row.image, row.step, row.steps)
            if row.id in outcome.previews:
                yield Preview(row.request.id, row.image, row.step, outcome.previews[row.id])

    def _finish(self, row: Row, outcome: Outcome) -> list[Event]:
        self._let_go([row.id])
        request, image = row.id
        events: list[Event] = [ImageDone(request, image, outcome.pictures[row.id])]
        if self._tracker.image_done(request, image):
            events.append(Completed(request, self._tracker.stats(request)))
            self._tracker.close(request)
        return events

    def _fail(self, request: str, error: AquatintError) -> list[Event]:
        """End a request with ``error``, all its images with it; once only."""
        if request not in self._tracker:
            return []
        self._tracker.close(request)
        ids = [row.id for row in self._scheduler.rows(request)]
        self._let_go(ids)
        return [Failed(request, error.report())]

    def _let_go(self, rows: Iterable[RowId]) -> None:
        self._scheduler.remove(rows)
        self._runner.drop(rows)

    def _expire(self) -> list[Event]:
        late = self._tracker.late(self._wall())
        return [event for request in late for event in self._fail(request.id, DeadlineExceeded("The deadline passed."))]

    def _tick(self, batch: Batch, outcome: Outcome) -> Tick:
        return Tick(
            model=batch.key.model,
            phase=batch.phase,
            rows=len(batch.rows),
            evaluations=batch.size,
            padded=outcome.padded,
            seconds=outcome.seconds,
            out_of_memory=outcome.out_of_memory,
            waiting=len(self._scheduler) - len(batch.rows),
        )


def _mistake(request: ImageRequest) -> AquatintError | None:
    """What is wrong with ``request`` whatever the model."""
    if request.refiner is not None and not 0 < request.refiner.switch_at < 1:
        return InvalidRequest("The refiner must take over after 0 and before 1 of the schedule.", param="refiner")
    if not request.seeds:
        return InvalidRequest("At least one seed is needed.", param="seeds")
    init = request.init
    if init is not None:
        try:
            check(init.masking, init.outpaint, (init.picture.width, init.picture.height), masked=init.mask is not None)
        except InvalidRequest as mistake:
            return mistake
    if any(use.preprocessor is not None for use in request.controls):
        return InvalidRequest(
            "A control's preprocessor must be run before: the engine takes control images only.", param="controls"
        )
    return passes.mistake(request)


def _hopeless(row: Row, outcome: Outcome) -> AquatintError:
    if outcome.out_of_memory and row.phase is Phase.ENLARGE:
        return OutOfMemory(
            "Enlarging the image does not fit this device's memory; give the upscaler a smaller tile.", param="upscale"
        )
    if outcome.out_of_memory:
        size = f"{row.key.width}x{row.key.height}"
        return OutOfMemory(f"One image of {size} does not fit this device's memory, even alone.", param="size")
    return EngineFailure("The image could not be made.") if outcome.fault is None else outcome.fault.to_exception()
