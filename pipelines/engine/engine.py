"""The engine: commands in, one batch at a time, events out."""

import time
from collections.abc import Callable, Iterable, Mapping

from pipelines.contract.catalog import ModelCard
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
from pipelines.contract.messages import (
    Completed,
    Event,
    Failed,
    ImageDone,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    Phase,
    Preview,
    Progress,
    Tick,
)
from pipelines.contract.request import ImageRequest
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.row import Row, RowId, rows_of
from pipelines.engine.runner import Runner
from pipelines.engine.scheduler import Scheduler
from pipelines.engine.tracker import Tracker

Emit = Callable[[Event], None]


class Engine:
    """Owns the scheduler, the runner and the books on requests. Single-threaded: call it from one place."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` measures durations, ``wall`` (Unix seconds) is what deadlines are held against."""
        self._runner = runner
        self._scheduler = Scheduler() if scheduler is None else scheduler
        self._tracker = Tracker()
        self._cards: dict[str, ModelCard] = {}
        self._clock = clock
        self._wall = wall
        self._arrivals = 0
        self._draining = False

    @property
    def busy(self) -> bool:
        """Whether `step` has work."""
        return len(self._scheduler) > 0

    def load(self, card: ModelCard, emit: Emit) -> None:
        """Load a model; tells ``emit`` the progress and the result."""
        try:
            facts = self._runner.load(card, lambda part, done: emit(ModelLoading(card.id, part, done)))
        except AquatintError as error:
            emit(ModelFailed(card.id, error.report()))
            return
        self._cards[card.id] = card
        self._scheduler.limit(card.id, card.limits.max_rows)
        emit(ModelLoaded(card.id, facts))

    def unload(self, model: str) -> list[Event]:
        """Let go of a model and fail what still waits for it; nothing happens if it is not loaded."""
        if self._cards.pop(model, None) is None:
            return []
        gone = UnknownModel(f"Model {model!r} was unloaded.", param="model")
        events = [event for request in self._tracker.using(model) for event in self._fail(request.id, gone)]
        self._runner.unload(model)
        return [*events, ModelUnloaded(model, evicted=False)]

    def generate(self, request: ImageRequest) -> list[Event]:
        """Take on ``request``; the events are empty unless it is refused."""
        refusal = self._refusal(request)
        if refusal is not None:
            return [Failed(request.id, refusal.report())]
        self._tracker.open(request, self._clock())
        rows = rows_of(request, self._arrivals)
        self._arrivals += len(rows)
        self._scheduler.add(rows)
        return []

    def cancel(self, request: str) -> list[Event]:
        """Drop a request; nothing happens if it is not in flight."""
        return self._fail(request, Cancelled("The request was cancelled.")) if request in self._tracker else []

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    def step(self) -> list[Event]:
        """Decide, compute, account: one batch, and what it means for the requests."""
        events = self._expire()
        batch = self._scheduler.schedule()
        if batch is None:
            return events
        began = self._clock()
        outcome = self._runner.run(batch)
        self._tracker.charge(batch, began, self._clock())
        return [*events, *self._account(batch, outcome)]

    def _refusal(self, request: ImageRequest) -> AquatintError | None:
        if self._draining:
            return ShuttingDown("This worker is finishing its work and takes no more.")
        for model, param in zip(request.models, ("model", "refiner"), strict=False):
            if model not in self._cards:
                return UnknownModel(f"Model {model!r} is not loaded here.", param=param)
        if request.id in self._tracker:
            return InvalidRequest(f"Request {request.id!r} is already in flight.")
        if request.refiner is not None and not 0 < request.refiner.switch_at < 1:
            return InvalidRequest("The refiner must take over after 0 and before 1 of the schedule.", param="refiner")
        if not request.seeds:
            return InvalidRequest("At least one seed is needed.", param="seeds")
        return None

    def _account(self, batch: Batch, outcome: Outcome) -> list[Event]:
        before = {row.id: row.step for row in batch.rows}
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
            events += self._progress(batch, outcome, before)
        for row in batch.rows:
            if row.id in outcome.pictures:
                events += self._finish(row, outcome)
        for (request, _), report in outcome.failed.items():
            events += self._fail(request, report.to_exception())
        for row in hopeless:
            events += self._fail(row.request.id, _hopeless(row, outcome))
        return events

    def _progress(self, batch: Batch, outcome: Outcome, before: Mapping[RowId, int]) -> Iterable[Event]:
        for row in batch.rows:
            if row.id not in outcome.advanced:
                continue
            request, image = row.id
            if row.step > before[row.id]:
                yield Progress(request, image, row.step, row.steps)
            if row.id in outcome.previews:
                yield Preview(request, image, row.step, outcome.previews[row.id])

    def _finish(self, row: Row, outcome: Outcome) -> list[Event]:
        self._scheduler.remove([row.id])
        self._runner.drop([row.id])
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
        ids = [(request, image) for image in range(len(self._tracker.close(request).seeds))]
        self._scheduler.remove(ids)
        self._runner.drop(ids)
        return [Failed(request, error.report())]

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


def _hopeless(row: Row, outcome: Outcome) -> AquatintError:
    if outcome.out_of_memory:
        size = f"{row.key.width}x{row.key.height}"
        return OutOfMemory(f"One image of {size} does not fit this device's memory, even alone.", param="size")
    return EngineFailure("The image could not be made.") if outcome.fault is None else outcome.fault.to_exception()
