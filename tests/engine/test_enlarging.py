"""Second passes, enlarged pictures and tiles, without tensors: everything ends once, with the right sizes, whatever happens."""

from collections import Counter
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engine_properties import engine, play
from test_models import HandLoader, Show

from pipelines.contract.adapters import LoraCard, UpscalerCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.control import LoraUse
from pipelines.contract.enlarging import Enlarger, Hires, Tiles, Upscale
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Failed, ImageDone, ModelLoaded, ModelUnloaded, Phase, Preview, Progress, Tick
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Init, Refiner, Sampling
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner, Faults
from pipelines.engine.scheduler import Scheduler

LARGER = UpscalerCard("larger", "fake:")
DOT = Picture(width=2, height=1, mode="RGB", data=bytes(range(6)))


def card_for(enlarger: Enlarger) -> UpscalerCard | None:
    return LARGER if enlarger is Enlarger.MODEL else None


second_passes = st.builds(
    lambda enlarger, width, strength, steps: Hires(width, 96, enlarger, card_for(enlarger), strength, steps),
    enlarger=st.sampled_from(list(Enlarger)),
    width=st.sampled_from([96, 128]),
    strength=st.sampled_from([0.3, 0.6, 1.0]),
    steps=st.none() | st.integers(4, 9),
)
finishes = st.builds(
    lambda enlarger, width, tiles: Upscale(width, 150, enlarger, card_for(enlarger), tiles),
    enlarger=st.sampled_from([Enlarger.LANCZOS, Enlarger.MODEL]),
    width=st.integers(1, 300),
    tiles=st.none() | st.builds(Tiles, size=st.sampled_from([64, 96]), overlap=st.sampled_from([0, 16, 32])),
)
requests = st.builds(
    lambda images, steps, guided, init, refiner, hires, upscale: {
        "seeds": tuple(range(images)),
        "sampling": Sampling(sampler="euler", steps=steps, guidance_scale=4.0 if guided else 1.0),
        "width": 64,
        "refiner": refiner,
        "init": None if init is None else Init(DOT, init if upscale is not None or init else 0.5),
        "hires": hires,
        "upscale": upscale,
        "preview_every": 2,
    },
    images=st.integers(1, 3),
    steps=st.integers(4, 9),
    guided=st.booleans(),
    init=st.sampled_from([None, 0.5, 0.0]),
    refiner=st.none() | st.builds(Refiner, model=st.sampled_from(["m", "n"]), switch_at=st.floats(0.01, 0.99)),
    hires=st.none() | second_passes,
    upscale=st.none() | finishes,
)
arrivals = st.lists(st.tuples(st.integers(0, 30), requests), max_size=8)


def refused(fields) -> bool:
    init, hires = fields["init"], fields["hires"]
    return init is not None and init.strength == 0 and hires is not None and hires.enlarger is Enlarger.LATENT


def size(fields) -> tuple[int, int]:
    if fields["upscale"] is not None:
        return fields["upscale"].width, fields["upscale"].height
    return (64, 64) if fields["hires"] is None else (fields["hires"].width, fields["hires"].height)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(plan=arrivals, moods=st.lists(st.booleans(), max_size=40), patience=st.integers(1, 20))
def test_every_request_ends_once_with_pictures_of_the_right_size(plan, moods, patience):
    made, runner = engine(moods, patience=patience)
    events = play(made, plan)
    ended = Counter(event.id for event in events if isinstance(event, (Completed, Failed)))
    assert ended == {f"r{index}": 1 for index in range(len(plan))}
    failed = {event.id for event in events if isinstance(event, Failed)}
    assert failed == {f"r{index}" for index, (_, fields) in enumerate(plan) if refused(fields)}
    done = {
        (event.id, event.image): (event.picture.width, event.picture.height) for event in events if isinstance(event, ImageDone)
    }
    wanted = [(f"r{index}", fields) for index, (_, fields) in enumerate(plan) if not refused(fields)]
    assert done == {(id_, image): size(fields) for id_, fields in wanted for image in range(len(fields["seeds"]))}
    for id_, image in done:
        told = [(e.step, e.steps) for e in events if isinstance(e, Progress) and (e.id, e.image) == (id_, image)]
        assert all(one < other for (one, _), (other, _) in pairwise(told))
        assert len({steps for _, steps in told}) <= 1
        assert not told or told[-1][0] == told[-1][1]
    assert all((event.id, event.image) in done for event in events if isinstance(event, Preview))
    assert not made.busy
    assert all(batch.size == 1 for batch in runner.batches if batch.phase is Phase.ENLARGE)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(plan=arrivals, cancels=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 7)), max_size=8))
def test_cancelling_ends_one_whole_and_touches_no_other(plan, cancels):
    made, _ = engine([])
    events = play(made, plan, cancels)
    ended = Counter(event.id for event in events if isinstance(event, (Completed, Failed)))
    assert ended == {f"r{index}": 1 for index in range(len(plan))}
    failed = {event.id for event in events if isinstance(event, Failed)}
    assert failed <= {f"r{index}" for _, index in cancels} | {f"r{i}" for i, (_, fields) in enumerate(plan) if refused(fields)}
    assert not made.busy


def request(**changes: object) -> ImageRequest:
    sampling = Sampling(sampler="euler", steps=4, guidance_scale=4.0)
    fields = {"id": "r", "model": "m", "prompt": "", "width": 64, "height": 64, "seeds": (0,), "sampling": sampling}
    return ImageRequest(**(fields | changes))


def ran(made: Engine, runner: FakeRunner, asked: ImageRequest) -> tuple[list[object], list[object]]:
    events = made.generate(asked)
    while made.busy:
        events += made.step()
    return events, [(batch.phase.value, batch.key.width, len(batch.rows)) for batch in runner.batches]


def test_the_order_of_everything():
    made, runner = engine([])
    asked = request(hires=Hires(96, 64, Enlarger.LANCZOS, strength=0.5), upscale=Upscale(100, 64, tiles=Tiles(64, 16, 0.5)))
    events, batches = ran(made, runner, asked)
    first = [("encode", 64, 1), *[("denoise", 64, 1)] * 4, ("decode", 64, 1), ("enlarge", 64, 1)]
    again = [("encode", 96, 1), *[("denoise", 96, 1)] * 2, ("decode", 96, 1), ("enlarge", 96, 1)]
    tiles = [("encode", 64, 2), *[("denoise", 64, 2)] * 2, ("decode", 64, 2), ("enlarge", 96, 1)]
    assert batches == first + again + tiles
    (completed,) = [event for event in events if isinstance(event, Completed)]
    assert completed.stats.evaluations == 2 * (4 + 2 + 2 * 2)
    assert [(e.step, e.steps) for e in events if isinstance(e, Progress)] == [(n, 10) for n in (1, 2, 3, 4, 5, 6, 8, 10)]


def test_work_to_come_counts_before_it_begins():
    scheduler = Scheduler()
    made = Engine(FakeRunner(Faults(), sleep=lambda _: None), scheduler)
    made.load(ModelCard(id="m", source="fake:", family=Family.FAKE))
    made.generate(request())
    plain = scheduler.demand()["m"].work
    made.cancel("r")
    made.generate(request(hires=Hires(128, 128, strength=0.5)))
    assert scheduler.demand()["m"].work == plain + 2 * 2 * 128 * 128


@pytest.mark.parametrize("at", range(1, 9))
def test_a_model_stays_for_its_second_pass(at):
    """Images already begun are finished with the weights they began with."""
    made, _ = engine([])
    events = made.generate(request(hires=Hires(96, 64, Enlarger.LANCZOS), upscale=Upscale(90, 64, tiles=Tiles(64, 0, 0.5))))
    for _ in range(at):
        events += made.step()
    events += made.unload("m")
    while made.busy:
        events += made.step()
    events += made.step()
    last = max(at for at, event in enumerate(events) if isinstance(event, Tick) and event.phase is not Phase.ENLARGE)
    assert sum(isinstance(event, ModelUnloaded) for event in events) == 1
    assert any(isinstance(event, ModelUnloaded) for event in events[last:])
    assert not any(isinstance(event, ModelLoaded) for event in events)
    assert any(isinstance(event, Completed) for event in events)


def test_a_picture_is_enlarged_without_its_model_and_waits_only_for_its_upscaler():
    show = Show(loader=HandLoader())
    show.engine.know(ModelCard(id="m", source="fake:", family=Family.FAKE))
    lora = LoraUse(LoraCard("paper", "fake:?fail_load=1", Family.FAKE))
    upscale = Upscale(300, 200, Enlarger.MODEL, LARGER)
    show.engine.generate(request(init=Init(DOT, 0.0), upscale=upscale, loras=(lora,)))
    events = []
    while show.engine.busy:
        events += show.engine.step()
    assert [(e.picture.width, e.picture.height) for e in events if isinstance(e, ImageDone)] == [(300, 200)]
    assert show.loader.work is None, "nobody asked for the model"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"hires": Hires(32, 64)}, "invalid_request", "hires"),
        ({"hires": Hires(96, 96, card=LARGER)}, "invalid_request", "hires"),
        ({"hires": Hires(96, 96, Enlarger.MODEL)}, "invalid_request", "hires"),
        ({"hires": Hires(96, 96, steps=0)}, "invalid_request", "hires"),
        ({"hires": Hires(96, 96, strength=1.5)}, "invalid_request", "hires"),
        ({"hires": Hires(96, 96), "init": Init(DOT, mask=Picture(2, 1, "L", b"\0\1"))}, "unsupported", "hires"),
        ({"hires": Hires(96, 96), "init": Init(DOT, 0.0)}, "invalid_request", "hires"),
        ({"upscale": Upscale(8192, 8200)}, "too_large", "upscale"),
        ({"hires": Hires(80_000, 80_000)}, "too_large", "hires"),
        ({"upscale": Upscale(96, -1)}, "invalid_request", "upscale"),
        ({"upscale": Upscale(96, 96, Enlarger.LATENT)}, "invalid_request", "upscale"),
        ({"upscale": Upscale(96, 96, tiles=Tiles(72, 40))}, "invalid_request", "upscale"),
        ({"upscale": Upscale(96, 96), "init": Init(DOT, 0.0, mask=Picture(2, 1, "L", b"\0\1"))}, "invalid_request", "strength"),
    ],
)
def test_what_cannot_be_is_refused_at_once(changes, code, param):
    made, _ = engine([])
    (refusal,) = made.generate(request(**changes))
    assert (refusal.error.code, refusal.error.param) == (code, param)
    assert not made.busy


def test_running_out_of_memory_while_enlarging_says_what_to_do():
    class Small(FakeRunner):
        def run(self, batch):
            done = super().run(batch)
            return (
                msgspec.structs.replace(done, out_of_memory=True, advanced={}, pictures={})
                if batch.phase is Phase.ENLARGE
                else done
            )

    made = Engine(Small(Faults(), sleep=lambda _: None))
    made.load(ModelCard(id="m", source="fake:", family=Family.FAKE))
    events = made.generate(request(upscale=Upscale(96, 96, Enlarger.MODEL, LARGER)))
    while made.busy:
        events += made.step()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.error.code, failed.error.param) == ("out_of_memory", "upscale")
    assert "smaller tile" in failed.error.message


def test_tiles_take_the_request_s_steps_whatever_the_second_pass_has():
    made, runner = engine([])
    tiles = Upscale(64, 64, tiles=Tiles(64, 0, 0.5))
    _, batches = ran(made, runner, request(hires=Hires(96, 64, strength=1.0, steps=7), upscale=tiles))
    assert batches.count(("denoise", 96, 1)) == 7
    assert batches.count(("denoise", 64, 1)) == 4 + 2
