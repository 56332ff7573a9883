"""Adapters come beside the ticks: who waits, who shares, who makes room, and what becomes of those who cannot have theirs."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import HandLoader

from pipelines.contract.adapters import LoraCard, UpscalerCard
from pipelines.contract.catalog import Limits, ModelCard
from pipelines.contract.control import LoraUse
from pipelines.contract.family import Family
from pipelines.contract.messages import AdapterMemory, Completed, Failed, Phase, Tick
from pipelines.contract.request import ImageRequest, Priority, Sampling
from pipelines.engine.adapters import Adapters
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner
from pipelines.engine.loader import Ended, InlineLoader
from pipelines.engine.models import Models
from pipelines.engine.runner import DeviceFault
from pipelines.engine.scheduler import Scheduler
from pipelines.memory.ledger import Ledger
from pipelines.memory.residency import Residency


def lora(name, size=10, **faults):
    options = "&".join(f"{key}={value}" for key, value in {"bytes": size, **faults}.items())
    return LoraCard(name, f"fake:?{options}", Family.FAKE)


class SlowLoader:
    """Does its work in a thread that goes on to the next adapter only when told to."""

    def __init__(self):
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._reports = []
        self.busy = False

    def begin(self, work):
        assert not self.busy, "one at a time"
        self.busy = True
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def open_next(self):
        self._go.release()
        assert self._stopped.acquire(timeout=30)

    def _run(self, work):
        def progress(part, fraction):
            if fraction == 1.0:
                self._stopped.release()
                self._go.acquire()

        self._go.acquire()
        work(progress)
        self.busy = False
        self._reports.append(Ended(1.0))
        self._stopped.release()

    def poll(self):
        reports, self._reports = self._reports, []
        return reports


class Stage:
    """An engine over a fake device with a budget for adapters, driven by hand."""

    def __init__(self, budget=None, loader=None):
        self.runner = FakeRunner(sleep=lambda _: None)
        self.loader = loader or InlineLoader()
        self.adapters = Adapters(self.runner, self.loader, budget)
        models_ = Models(self.runner, Residency(Ledger()), InlineLoader())
        self.engine = Engine(self.runner, Scheduler(), models_, adapters=self.adapters)
        self.events = []
        self.asked = 0
        self.events += self.engine.know(self.model("m"))

    @staticmethod
    def model(name, size=10, **fields):
        source = f"fake:?bytes={size}"
        return ModelCard(**({"id": name, "source": source, "family": Family.FAKE, "limits": Limits(max_rows=16)} | fields))

    def ask(self, *cards, steps=4, **fields):
        self.asked += 1
        id_ = f"r{self.asked}"
        sampling = Sampling(sampler="euler", steps=steps, guidance_scale=1.0)
        uses = tuple(LoraUse(card) for card in cards)
        self.events += self.engine.generate(ImageRequest(id_, "m", "", 64, 64, (1,), sampling, loras=uses, **fields))
        return id_

    def step(self, count=1):
        for _ in range(count):
            self.events += self.engine.step()
        return self

    def finish(self, most=2000):
        for _ in range(most):
            if not self.engine.busy:
                return self
            self.step()
        raise AssertionError("it does not end")

    @property
    def here(self):
        return {key[1] for key in self.runner.adapters}

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def ended(self):
        return {event.id: getattr(getattr(event, "error", None), "code", "completed") for event in self.of((Completed, Failed))}

    def message(self, id_):
        return next(event.error.message for event in self.of(Failed) if event.id == id_)

    def ran(self, id_):
        """The batches in which it was, by their numbers."""
        return [number for number, batch in enumerate(self.runner.batches) if any(row.id[0] == id_ for row in batch.rows)]


def test_the_first_use_brings_it_and_later_ones_find_it():
    stage = Stage()
    first = stage.ask(lora("a"), lora("b"))
    stage.finish()
    second = stage.ask(lora("a"))
    stage.finish()
    assert stage.ended() == {first: "completed", second: "completed"}
    assert stage.here == {"a", "b"}
    assert stage.runner._loads["a"] == 1
    assert stage.of(AdapterMemory)[-1] == AdapterMemory(20, 0, ("a", "b"))


def test_others_go_on_while_it_is_on_its_way():
    stage = Stage(loader=HandLoader())
    plain = stage.ask(steps=6)
    stage.step(3)
    dressed = stage.ask(lora("a"), steps=6)
    stage.step(2)
    assert stage.adapters.loading
    assert stage.ran(plain)
    assert not stage.ran(dressed)
    before = len(stage.of(Tick))
    stage.step(2)
    assert len(stage.of(Tick)) == before + 2, "the ticks stood still"
    stage.loader.finish()
    stage.finish()
    assert stage.ended() == {plain: "completed", dressed: "completed"}


def test_what_has_been_opened_is_taken_in_before_the_rest_is():
    loader = SlowLoader()
    stage = Stage(loader=loader)
    first, second = stage.ask(lora("a")), stage.ask(lora("b"))
    stage.step(3)
    loader.open_next()
    stage.step(3)
    assert stage.here == {"a"}
    assert stage.ran(first)
    assert not stage.ran(second)
    loader.open_next()
    stage.finish()
    assert stage.ended() == {first: "completed", second: "completed"}


def test_the_least_recently_used_makes_room():
    stage = Stage(budget=20)
    for name in ("a", "b", "a", "c"):
        stage.ask(lora(name))
        stage.finish()
    assert stage.here == {"a", "c"}
    assert stage.of(AdapterMemory)[-1] == AdapterMemory(20, 20, ("a", "c"))


def test_what_a_row_holds_stays_until_it_is_done():
    stage = Stage(budget=20)
    long = stage.ask(lora("a"), steps=30)
    stage.step(4)
    assert stage.ran(long)
    wants = stage.ask(lora("b"), lora("c"), steps=4)
    stage.step(10)
    assert "a" in stage.here
    assert not stage.ran(wants)
    stage.finish()
    assert stage.ended() == {long: "completed", wants: "completed"}
    assert stage.ran(wants)[0] > stage.ran(long)[-1] - 2
    assert stage.here == {"b", "c"}


def test_two_rows_whose_adapters_do_not_fit_together_take_turns():
    stage = Stage(budget=25)
    ids = [stage.ask(lora("a"), lora("b")), stage.ask(lora("c"), lora("d")), stage.ask(lora("a"), lora("d"))]
    stage.finish()
    assert stage.ended() == dict.fromkeys(ids, "completed")


def test_rows_that_need_nothing_more_overtake_who_waits_for_room():
    stage = Stage(budget=20)
    stage.ask(lora("a"), steps=30)
    stage.step(3)
    waits, quick = stage.ask(lora("big", 20)), stage.ask(lora("a"))
    stage.finish()
    assert stage.ended()[waits] == "completed"
    assert stage.ran(quick)[-1] < stage.ran(waits)[0]


def test_the_more_urgent_gets_the_room():
    stage = Stage(budget=10)
    busy = stage.ask(lora("a"), steps=10)
    stage.step(3)
    later, urgent = stage.ask(lora("b")), stage.ask(lora("c"), priority=Priority.INTERACTIVE)
    stage.finish()
    assert stage.ended() == dict.fromkeys((busy, later, urgent), "completed")
    assert stage.ran(urgent)[0] < stage.ran(later)[0]


def test_more_than_the_budget_is_refused_alone_and_together():
    stage = Stage(budget=25)
    alone, together, fits = stage.ask(lora("huge", 26)), stage.ask(lora("a"), lora("b"), lora("c")), stage.ask(lora("a"))
    stage.finish()
    assert stage.ended() == {alone: "model_too_large", together: "model_too_large", fits: "completed"}
    assert "'huge'" in stage.message(alone)
    assert "'a' and LoRA 'b' and LoRA 'c' together take" in stage.message(together)


def test_one_that_fails_takes_only_its_requests_with_it():
    stage = Stage()
    broken = [stage.ask(lora("bad", fail_load=1)), stage.ask(lora("good"), lora("bad", fail_load=1))]
    fine = stage.ask(lora("good"))
    stage.finish()
    assert stage.ended() == {**dict.fromkeys(broken, "model_load_failed"), fine: "completed"}


def test_without_memory_it_is_tried_again_once_the_others_have_gone():
    stage = Stage()
    kept = stage.ask(lora("old"))
    stage.finish()
    tight, hopeless = stage.ask(lora("tight", oom_loads=1)), stage.ask(lora("hopeless", oom_loads=2))
    stage.finish()
    assert stage.ended() == {kept: "completed", tight: "completed", hopeless: "out_of_memory"}
    assert "old" not in stage.here


def test_memory_that_a_row_holds_is_not_taken_from_it():
    stage = Stage()
    long = stage.ask(lora("old"), steps=20)
    stage.step(3)
    tight = stage.ask(lora("tight", oom_loads=1))
    stage.step(3)
    assert {"old", "tight"} <= stage.here
    stage.finish()
    assert stage.ended() == {long: "completed", tight: "completed"}


def test_a_broken_device_ends_the_engine():
    def work(_progress):
        raise DeviceFault("gone")

    stage = Stage()
    stage.runner.open_adapter = lambda _model, _card: work
    stage.ask(lora("a"))
    with pytest.raises(DeviceFault, match="gone"):
        stage.finish()


def test_any_other_error_is_told_to_who_asked():
    stage = Stage()
    stage.runner.open_adapter = lambda _model, _card: lambda _progress: 1 / 0
    id_ = stage.ask(lora("a"))
    stage.finish()
    assert stage.message(id_) == "LoRA 'a' cannot be loaded: ZeroDivisionError: division by zero"


def test_cancelled_while_it_was_on_its_way():
    stage = Stage(loader=HandLoader())
    id_ = stage.ask(lora("a"))
    stage.step(2)
    stage.events += stage.engine.cancel(id_)
    assert not stage.engine.busy
    stage.loader.finish()
    stage.step()
    assert stage.here == {"a"}, "it is there for the next one"
    again = stage.ask(lora("a"))
    stage.finish()
    assert stage.ended() == {id_: "cancelled", again: "completed"}


def test_a_lora_goes_with_its_model_and_other_adapters_stay():
    stage = Stage()
    stage.ask(lora("a"))
    upscaler = UpscalerCard("u", "fake:?bytes=5")
    stage.adapters._here[("UpscalerCard", "u")] = 5
    stage.adapters._names[("UpscalerCard", "u")] = upscaler.name
    stage.finish()
    assert stage.here == {"a"}
    stage.events += stage.engine.unload("m")
    stage.step()
    assert stage.here == set()
    assert ("UpscalerCard", "u") in stage.adapters._here
    again = stage.ask(lora("a"))
    stage.finish()
    assert stage.ended()[again] == "completed"
    assert stage.runner._loads["a"] == 2


def test_a_model_unloaded_while_its_lora_is_on_its_way():
    stage = Stage(loader=HandLoader())
    id_ = stage.ask(lora("a"))
    stage.step(2)
    assert stage.adapters.loading
    stage.events += stage.engine.unload("m")
    stage.step()
    stage.loader.finish()
    stage.step(2)
    assert stage.here == set(), "what was made for the model before must not be taken in"
    while stage.engine.busy:
        if stage.loader.work is not None:
            stage.loader.finish()
        stage.step()
    assert stage.ended() == {id_: "completed"}


def test_a_model_reloaded_in_one_step_gets_its_loras_anew():
    stage = Stage()
    stage.ask(lora("a"))
    stage.finish()
    stage.events += stage.engine.know(Stage.model("m", 11))
    id_ = stage.ask(lora("a"))
    stage.finish()
    assert stage.ended()[id_] == "completed"
    assert stage.runner._loads["a"] == 2


def test_only_so_many_are_opened_in_one_go():
    loader = SlowLoader()
    stage = Stage(loader=loader)
    for name in "abcdefgh":
        stage.ask(lora(name))
    stage.step(3)
    while loader.busy:
        loader.open_next()
    assert len(stage.runner._loads) == len("m" + "abcd")


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.lists(st.sampled_from("abcdefg"), max_size=3, unique=True), st.integers(1, 6), st.integers(0, 8)),
        min_size=1,
        max_size=12,
    ),
    budget=st.integers(12, 40),
    slow=st.booleans(),
)
def test_everybody_ends_and_the_budget_holds(requests, budget, slow):
    sizes = dict(zip("abcdefg", (2, 3, 5, 7, 8, 10, 12), strict=True))
    loader = SlowLoader() if slow else InlineLoader()
    stage = Stage(budget=budget, loader=loader)
    expected = {}
    for names, steps, pause in requests:
        id_ = stage.ask(*(lora(name, sizes[name]) for name in names), steps=steps)
        expected[id_] = "completed" if sum(sizes[name] for name in names) <= budget else "model_too_large"
        for _ in range(pause):
            stage.step()
            assert sum(sizes[name] for name in stage.here) <= budget
    for _ in range(3000):
        if not stage.engine.busy:
            break
        if slow and loader.busy:
            loader.open_next()
        stage.step()
        assert sum(sizes[name] for name in stage.here) <= budget
        running = {row.id[0] for row in stage.engine._scheduler.rows() if row.phase is not Phase.ENCODE}
        for row in stage.engine._scheduler.rows():
            if row.id[0] in running:
                assert {use.card.name for use in row.request.loras} <= stage.here
    assert stage.ended() == expected
