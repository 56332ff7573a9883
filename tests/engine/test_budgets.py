"""Row budgets follow measured memory, go down when it runs out, and outlive the process."""

import json

import pytest

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Phase, Tick
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.budgets import Budgets, Learned, Measure
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner
from pipelines.engine.notes import Notes, Surroundings, file_name
from pipelines.engine.row import Key
from pipelines.engine.scheduler import Scheduler

KEY, OTHER = Key("m", 64, 64), Key("m", 128, 64)
HERE = Surroundings("NVIDIA H100 80GB HBM3", 80 << 30, "2.10.0")


def test_nothing_measured_is_no_limit():
    assert Budgets().current(Phase.DENOISE, KEY, 16) == 16


def test_one_measure_gives_bytes_for_each_evaluation():
    budgets = Budgets()
    budgets.measure(Phase.DENOISE, KEY, Measure(2, 100), free=450)
    assert budgets.current(Phase.DENOISE, KEY, 16) == 8, "nine tenths of 450, 50 each"
    assert budgets.current(Phase.DENOISE, OTHER, 16) == 16
    assert budgets.current(Phase.DECODE, KEY, 16) == 16


def test_two_measures_tell_what_is_fixed_from_what_each_evaluation_adds():
    budgets = Budgets()
    budgets.measure(Phase.DENOISE, KEY, Measure(1, 100), free=1000)
    budgets.measure(Phase.DENOISE, KEY, Measure(11, 200), free=400)
    assert budgets.current(Phase.DENOISE, KEY, 100) == 27, "90 fixed, 10 for each: 90 + 27 * 10 = 360"


def test_free_memory_is_what_there_was_last():
    budgets = Budgets()
    budgets.measure(Phase.DENOISE, KEY, Measure(1, 100), free=100_000)
    budgets.measure(Phase.DENOISE, OTHER, Measure(1, 10), free=500)
    assert budgets.current(Phase.DENOISE, KEY, 16) == 4


def test_there_is_always_room_to_try_one():
    budgets = Budgets()
    budgets.measure(Phase.DENOISE, KEY, Measure(1, 1000), free=1)
    assert budgets.current(Phase.DENOISE, KEY, 16) == 1


def test_the_same_batch_with_a_higher_peak_is_news_and_a_lower_one_is_not():
    learned = Learned().with_measure(Measure(4, 100))
    assert learned.with_measure(Measure(4, 50)) == learned
    assert learned.with_measure(Measure(4, 101)) == learned
    assert learned.with_measure(Measure(4, 120)).many == Measure(4, 120)


def test_memory_that_runs_out_counts_more_than_a_prediction():
    budgets = Budgets()
    budgets.measure(Phase.DENOISE, KEY, Measure(1, 1), free=1000)
    assert budgets.shrink(Phase.DENOISE, KEY, 8) == 4
    assert budgets.current(Phase.DENOISE, KEY, 16) == 4


def card(**changes):
    fields = {"id": "m", "source": "fake:?row_bytes=10&room_bytes=100", "family": Family.FAKE, "limits": Limits(max_rows=16)}
    return ModelCard(**(fields | changes))


def play(path, the_card, surroundings=HERE, rows=16):
    """What one process does: the sizes of its ticks, and how often memory ran out."""
    budgets = Budgets()
    notes = Notes(path / file_name(surroundings), surroundings, budgets)
    engine = Engine(FakeRunner(sleep=lambda _: None), Scheduler(budgets=budgets), notes=notes)
    events = engine.load(the_card)
    sampling = Sampling(sampler="euler", steps=8, guidance_scale=4.0)
    for index in range(rows):
        engine.generate(ImageRequest(f"r{index}", "m", "", 64, 64, (index,), sampling))
    while engine.busy:
        events += engine.step()
    assert sum(isinstance(event, Completed) for event in events) == rows
    ticks = [event for event in events if isinstance(event, Tick) and event.phase is Phase.DENOISE]
    return [tick.evaluations for tick in ticks if not tick.out_of_memory], sum(tick.out_of_memory for tick in ticks)


def test_the_cap_is_found_by_measuring_and_remembered(tmp_path):
    sizes, trouble = play(tmp_path, card())
    assert (max(sizes), trouble) == (8, 1), "16 do not fit, 8 do"
    sizes, trouble = play(tmp_path, card())
    assert (max(sizes), trouble) == (8, 0), "the second process knows"
    (file,) = tmp_path.iterdir()
    assert file.name == "row-budgets-nvidia-h100-80gb-hbm3.json"
    assert json.loads(file.read_text())["pages"]["m"]["entries"]


def test_measuring_alone_keeps_from_running_out(tmp_path):
    budgets = Budgets()
    engine = Engine(FakeRunner(sleep=lambda _: None), Scheduler(budgets=budgets))
    engine.load(card())
    sampling = Sampling(sampler="euler", steps=8, guidance_scale=1.0)
    engine.generate(ImageRequest("first", "m", "", 64, 64, (0,), sampling))
    events = []
    for _ in range(4):
        events += engine.step()
    for index in range(20):
        engine.generate(ImageRequest(f"r{index}", "m", "", 64, 64, (index,), sampling))
    while engine.busy:
        events += engine.step()
    ticks = [event for event in events if isinstance(event, Tick) and event.phase is Phase.DENOISE]
    assert not any(tick.out_of_memory for tick in ticks)
    assert max(tick.evaluations for tick in ticks) == 9


@pytest.mark.parametrize(
    "change",
    [
        {"the_card": card(source="fake:?row_bytes=10&room_bytes=1000")},
        {"surroundings": Surroundings(HERE.device, HERE.memory_bytes, "2.11.0")},
        {"surroundings": Surroundings(HERE.device, 40 << 30, HERE.software)},
    ],
    ids=["card", "torch", "device"],
)
def test_what_was_learned_elsewhere_is_ignored(tmp_path, change):
    play(tmp_path, card())
    first = {"the_card": card(), "surroundings": HERE} | change
    budgets = Budgets()
    notes = Notes(tmp_path / file_name(HERE), first["surroundings"], budgets)
    notes.recall(first["the_card"])
    assert budgets.learned("m") == {}


def test_limits_and_words_of_a_card_do_not_matter(tmp_path):
    play(tmp_path, card())
    budgets = Budgets()
    notes = Notes(tmp_path / file_name(HERE), HERE, budgets)
    notes.recall(card(limits=Limits(max_rows=3), defaults=Defaults(steps=3), description="new", pin=True))
    assert budgets.learned("m")


@pytest.mark.parametrize("text", ["", "{", '{"pages": 3}', "\0"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path, capsys, text):
    (tmp_path / file_name(HERE)).write_text(text)
    assert play(tmp_path, card())[1] == 1
    assert "is ignored" in capsys.readouterr().err
    assert play(tmp_path, card())[1] == 0


def test_a_folder_that_cannot_be_written_ends_nobody_s_request(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert play(tmp_path / "file", card())[1] == 1
    assert "cannot be kept" in capsys.readouterr().err
