"""Whatever comes, and whenever memory runs out: every request ends exactly once, and no budget is exceeded."""

from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.contract.adapters import ControlCard
from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.control import ControlUse
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Failed, ImageDone, ModelLoaded, ModelUnloaded, Phase, Progress
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Priority, Refiner, Sampling
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner, Faults
from pipelines.engine.scheduler import Policy, Scheduler

MAX_ROWS = 6

requests = st.builds(
    lambda images, steps, guided, width, priority, refiner: {
        "seeds": tuple(range(images)),
        "sampling": Sampling(sampler="euler", steps=steps, guidance_scale=4.0 if guided else 1.0),
        "width": width,
        "priority": priority,
        "refiner": refiner,
    },
    images=st.integers(1, 3),
    steps=st.integers(1, 12),
    guided=st.booleans(),
    width=st.sampled_from([64, 96]),
    priority=st.sampled_from(list(Priority)),
    refiner=st.none() | st.builds(Refiner, model=st.sampled_from(["m", "n"]), switch_at=st.floats(0.01, 0.99)),
)

arrivals = st.lists(st.tuples(st.integers(0, 30), requests), max_size=14)


class Moody(FakeRunner):
    """Runs out of memory whenever told, at most so often, but never for a single evaluation alone."""

    def __init__(self, moods: list[bool]) -> None:
        super().__init__(Faults(), sleep=lambda _: None)
        self._moods = moods

    def run(self, batch: Batch) -> Outcome:
        limit = MAX_ROWS if batch.phase is Phase.DENOISE else Policy().encode_rows
        assert batch.budget <= limit
        assert batch.size <= batch.budget or (len(batch.rows) == 1 and batch.budget == 1)
        assert len({row.key for row in batch.rows}) == 1
        if self._moods and self._moods.pop() and min(batch.size, batch.budget) > 1:
            self.batches.append(batch)
            return Outcome(0.0, out_of_memory=True)
        return super().run(batch)


def engine(moods: list[bool], **policy: object) -> tuple[Engine, Moody]:
    runner = Moody(moods)
    made = Engine(runner, Scheduler(Policy(**policy)))
    for name in ("m", "n"):
        card = ModelCard(id=name, source="fake:", family=Family.FAKE, defaults=Defaults(), limits=Limits(max_rows=MAX_ROWS))
        assert made.load(card) == []
        assert any(isinstance(event, ModelLoaded) for event in made.step())
    return made, runner


def play(made: Engine, plan, cancels=()) -> list[object]:
    waiting = sorted(((at, index, fields) for index, (at, fields) in enumerate(plan)), key=lambda entry: entry[:2])
    events: list[object] = []
    batch = 0
    while waiting or made.busy:
        while waiting and (waiting[0][0] <= batch or not made.busy):
            _, index, fields = waiting.pop(0)
            events += made.generate(ImageRequest(id=f"r{index}", model="m", prompt="", height=64, **fields))
        for at, index in cancels:
            if at == batch:
                events += made.cancel(f"r{index}")
        events += made.step()
        batch += 1
        assert batch < 20_000, "it does not end"
    return events


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(plan=arrivals, moods=st.lists(st.booleans(), max_size=40), patience=st.integers(1, 20))
def test_every_request_ends_exactly_once_with_all_its_images(plan, moods, patience):
    made, _ = engine(moods, patience=patience)
    events = play(made, plan)
    ended = Counter(event.id for event in events if isinstance(event, (Completed, Failed)))
    assert ended == {f"r{index}": 1 for index in range(len(plan))}
    assert not [event for event in events if isinstance(event, Failed)]
    images = Counter((event.id, event.image) for event in events if isinstance(event, ImageDone))
    assert images == {(f"r{i}", image): 1 for i, (_, fields) in enumerate(plan) for image in range(len(fields["seeds"]))}
    for index, (_, fields) in enumerate(plan):
        for image in range(len(fields["seeds"])):
            steps = [e.step for e in events if isinstance(e, Progress) and (e.id, e.image) == (f"r{index}", image)]
            assert steps == list(range(1, fields["sampling"].steps + 1)), "every step once, in order, whatever was repeated"


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(plan=arrivals, cancels=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 13)), max_size=8))
def test_cancelling_ends_one_and_touches_no_other(plan, cancels):
    made, _ = engine([])
    events = play(made, plan, cancels)
    ended = Counter(event.id for event in events if isinstance(event, (Completed, Failed)))
    assert ended == {f"r{index}": 1 for index in range(len(plan))}
    cancelled = {event.id for event in events if isinstance(event, Failed)}
    assert cancelled <= {f"r{index}" for _, index in cancels}
    assert not made.busy


def interactive(id_: str) -> ImageRequest:
    sampling = Sampling(sampler="euler", steps=2, guidance_scale=4.0)
    fields = {"model": "m", "prompt": "", "width": 64, "height": 64, "seeds": (0,), "priority": Priority.INTERACTIVE}
    return ImageRequest(id=id_, sampling=sampling, **fields)


@settings(deadline=None, max_examples=60)
@given(patience=st.integers(1, 10), bulk=st.integers(1, 4), crowd=st.integers(0, 100))
def test_a_stream_of_interactive_rows_starves_nobody(patience, bulk, crowd):
    made, runner = engine([], patience=patience)
    steps = 5
    for number in range(crowd):
        made.generate(interactive(f"crowd{number}"))
    for index in range(bulk):
        sampling = Sampling(sampler="euler", steps=steps, guidance_scale=4.0)
        made.generate(
            ImageRequest(
                id=f"bulk{index}",
                model="m",
                prompt="",
                width=64,
                height=64,
                seeds=(0,),
                sampling=sampling,
                priority=Priority.BULK,
            )
        )
    done: list[object] = []
    for number in range(20 * (patience + 4) * bulk * steps):
        # Three newcomers a batch are more than a budget of six evaluations can ever serve.
        for extra in range(3):
            made.generate(interactive(f"i{number}-{extra}"))
        done += [event.id for event in made.step() if isinstance(event, Completed) and event.id.startswith("bulk")]
        if len(done) == bulk:
            return
    raise AssertionError(f"only {len(done)} of {bulk} bulk requests ended in {len(runner.batches)} batches")


def test_a_passed_deadline_fails_the_request():
    now = [1000.0]
    runner = FakeRunner(Faults(), sleep=lambda _: None)
    made = Engine(runner, wall=lambda: now[0])
    made.load(ModelCard(id="m", source="fake:", family=Family.FAKE))
    sampling = Sampling(sampler="euler", steps=50, guidance_scale=1.0)
    for name, deadline in (("late", 1001.0), ("patient", None)):
        made.generate(
            ImageRequest(id=name, model="m", prompt="", width=64, height=64, seeds=(0,), sampling=sampling, deadline=deadline)
        )
    made.step()
    now[0] = 1002.0
    events = made.step()
    assert [(event.id, event.error.code) for event in events if isinstance(event, Failed)] == [("late", "deadline_exceeded")]
    while made.busy:
        events += made.step()
    assert [event.id for event in events if isinstance(event, Completed)] == ["patient"]


def refined(model: str, switch_at: float = 0.5) -> ImageRequest:
    return msgspec.structs.replace(interactive("r"), refiner=Refiner(model, switch_at), seeds=(0, 1))


def test_two_models_make_one_request():
    made, runner = engine([])
    events = made.generate(refined("n"))
    while made.busy:
        events += made.step()
    ran = [(batch.phase, batch.key.model) for batch in runner.batches]
    halves = [(phase, model) for model in "mn" for phase in (Phase.ENCODE, Phase.DENOISE)]
    assert ran == [*halves, (Phase.DECODE, "n")]
    (completed,) = [event for event in events if isinstance(event, Completed)]
    assert completed.stats.evaluations == 2 * 2 * 2, "two images, two steps, two evaluations each"
    assert sum(isinstance(event, ImageDone) for event in events) == 2


@pytest.mark.parametrize(("model", "switch_at", "code"), [("x", 0.5, "unknown_model"), ("n", 1.0, "invalid_request")])
def test_a_refiner_that_cannot_be_is_refused(model, switch_at, code):
    made, _ = engine([])
    (refusal,) = made.generate(refined(model, switch_at))
    assert (refusal.error.code, refusal.error.param) == (code, "refiner")
    assert not made.busy


def test_a_refiner_that_was_unloaded_comes_back_for_those_who_need_it():
    made, _ = engine([])
    made.generate(refined("n"))
    made.generate(interactive("plain"))
    events = made.unload("n")
    while made.busy:
        events += made.step()
    assert [event.model for event in events if isinstance(event, ModelUnloaded)] == ["n"]
    assert [event.model for event in events if isinstance(event, ModelLoaded)] == ["n"]
    assert {event.id for event in events if isinstance(event, Completed)} == {"r", "plain"}


@pytest.mark.parametrize("cancelled_at", range(6))
def test_cancelling_on_either_side_of_the_switch_leaves_nothing(cancelled_at):
    made, _ = engine([])
    made.generate(refined("n"))
    events = []
    for _ in range(cancelled_at):
        events += made.step()
    events += made.cancel("r")
    ended = [event for event in events if isinstance(event, (Completed, Failed))]
    assert len(ended) == 1
    assert not made.busy


def test_a_control_that_is_still_to_be_preprocessed_is_refused():
    made, _ = engine([])
    dot = Picture(1, 1, "RGB", bytes(3))
    use = ControlUse(ControlCard("edges", "dir:/x", Family.FAKE), dot, "canny")
    request = ImageRequest("r", "m", "p", 64, 64, (1,), Sampling("euler", 2, 1.0), controls=(use,))
    (refusal,) = made.generate(request)
    assert (refusal.error.code, refusal.error.param) == ("invalid_request", "controls")
    assert "preprocessor" in refusal.error.message
