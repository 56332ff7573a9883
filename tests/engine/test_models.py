"""Models come and go beside the ticks: who waits, who is woken, who makes room, and what becomes of those who cannot come."""

import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.errors import OutOfMemory
from pipelines.contract.family import Family
from pipelines.contract.messages import (
    Completed,
    Failed,
    ImageDone,
    Memory,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
)
from pipelines.contract.request import ImageRequest, Refiner, Sampling
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner
from pipelines.engine.loader import Ended, InlineLoader, Moved, ThreadLoader
from pipelines.engine.models import Models
from pipelines.engine.runner import DeviceFault
from pipelines.engine.scheduler import Scheduler
from pipelines.memory.ledger import Ledger, Tier
from pipelines.memory.residency import Residency
from pipelines.memory.turnover import Turnover


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class HandLoader:
    """Does the work when told to."""

    def __init__(self):
        self.work = None
        self._reports = []

    def begin(self, work):
        assert self.work is None, "one at a time"
        self.work = work

    def finish(self, error=None):
        work, self.work = self.work, None
        result = None
        try:
            result = work(lambda part, done: self._reports.append(Moved(part, done)))
        except Exception as raised:  # noqa: BLE001 - as the real ones do
            error = raised
        self._reports.append(Ended(1.0, result, error))

    def poll(self):
        reports, self._reports = self._reports, []
        return reports


class Show:
    """An engine over a fake device, driven by hand."""

    def __init__(self, budget=None, ram=0, loader=None, **rule):
        self.clock = Clock()
        self.runner = FakeRunner(sleep=lambda _: None)
        self.residency = Residency(Ledger(budget, ram))
        self.loader = loader or InlineLoader(self.clock)
        self.models = Models(self.runner, self.residency, self.loader, Turnover(**rule), clock=self.clock)
        self.engine = Engine(self.runner, Scheduler(), self.models, clock=self.clock, wall=self.clock)
        self.events = []
        self.count = 0

    def know(self, *names, load=False, size=10, **fields):
        for name in names:
            card = (
                ModelCard(id=name, source=f"fake:?bytes={size}", family=Family.FAKE, **fields)
                if "source" not in fields
                else (ModelCard(id=name, family=Family.FAKE, **fields))
            )
            self.events += self.engine.load(card) if load else self.engine.know(card)
        return self

    def ask(self, model, steps=4, images=1, **fields):
        self.count += 1
        id_ = f"{model}{self.count}"
        sampling = Sampling(sampler="euler", steps=steps, guidance_scale=1.0)
        request = ImageRequest(id_, model, "", 64, 64, tuple(range(images)), sampling, **fields)
        self.events += self.engine.generate(request)
        return id_

    def step(self, count=1, seconds=0.1):
        for _ in range(count):
            self.clock.now += seconds
            self.events += self.engine.step()
        return self

    def finish(self, seconds=0.1, most=5000):
        for _ in range(most):
            if not self.engine.busy:
                return self
            self.step(seconds=seconds)
        raise AssertionError("it does not end")

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def ended(self):
        return {event.id: getattr(getattr(event, "error", None), "code", "completed") for event in self.of((Completed, Failed))}

    def story(self):
        marks = {ModelLoaded: "+", ModelUnloaded: "-", ModelFailed: "!"}
        return [marks[type(event)] + event.model for event in self.of(tuple(marks))]

    @property
    def resident(self):
        return set(self.residency.ledger.on(Tier.DEVICE))


def test_a_known_model_is_loaded_by_its_first_request_and_announces_itself():
    show = Show().know("a")
    show.step(3)
    assert show.events == [], "knowing is not loading"
    id_ = show.ask("a")
    show.finish()
    assert show.ended() == {id_: "completed"}
    assert show.story() == ["+a"]
    assert show.of(ModelLoading)
    assert show.of(Memory)[-1] == Memory(10, 0, 0, ("a",))


def test_others_go_on_while_a_model_is_loaded_and_its_requests_wake_up():
    loader = HandLoader()
    show = Show(loader=loader).know("a", "b")
    first = show.ask("a")
    show.step()
    loader.finish()
    show.finish()
    waiting, going = show.ask("b"), show.ask("a", steps=20)
    show.step(15)
    assert loader.work is not None
    assert {batch.key.model for batch in show.runner.batches} == {"a"}
    assert show.ended() == {first: "completed"}
    loader.finish()
    show.finish()
    assert show.ended() == {first: "completed", waiting: "completed", going: "completed"}


def test_nothing_to_do_but_wait_is_said_so():
    loader = HandLoader()
    show = Show(loader=loader).know("a")
    show.step()
    assert show.engine.wait_seconds() is None
    show.ask("a", deadline=50.0)
    assert show.engine.wait_seconds() == 0.0
    show.step(3)
    assert show.engine.wait_seconds() == pytest.approx(50.0 - show.clock.now)
    loader.finish()
    show.step()
    assert show.engine.wait_seconds() == 0.0


def test_a_deadline_passes_also_while_waiting_for_a_model():
    show = Show(loader=HandLoader()).know("a")
    id_ = show.ask("a", deadline=5.0)
    show.step(2)
    show.clock.now = 6.0
    show.step()
    assert show.ended() == {id_: "deadline_exceeded"}


def test_a_cancelled_request_waits_no_more_and_the_load_is_no_loss():
    loader = HandLoader()
    show = Show(loader=loader).know("a")
    id_ = show.ask("a")
    show.step()
    show.events += show.engine.cancel(id_)
    assert not show.engine.busy
    loader.finish()
    show.step()
    assert show.resident == {"a"}
    assert show.ended() == {id_: "cancelled"}


def test_draining_waits_for_the_load_that_its_requests_wait_for():
    loader = HandLoader()
    show = Show(loader=loader).know("a")
    id_ = show.ask("a")
    show.step()
    show.engine.drain()
    late = show.ask("a")
    show.step(5)
    assert show.engine.busy
    loader.finish()
    show.finish()
    assert show.ended() == {late: "shutting_down", id_: "completed"}


def test_a_failed_load_fails_those_who_waited_and_a_new_request_is_a_new_try():
    loader = HandLoader()
    show = Show(loader=loader).know("a", source="fake:?fail_load=true")
    ids = [show.ask("a"), show.ask("a", images=3)]
    show.step()
    loader.finish()
    show.step()
    assert show.ended() == dict.fromkeys(ids, "model_load_failed")
    assert show.of(ModelFailed)[0].error == show.of(Failed)[0].error
    show.step(3)
    assert loader.work is None, "nobody asks any more"
    show.ask("a")
    show.step()
    assert loader.work is not None


def test_whatever_ends_the_loader_s_thread_is_a_failed_load():
    class Bad(FakeRunner):
        def load(self, *_):
            raise SystemExit(3)

    show = Show(loader=ThreadLoader())
    show.models._runner = Bad()
    show.know("a", load=True)
    while not show.of(ModelFailed):
        show.step()
    assert "SystemExit" in show.of(ModelFailed)[0].error.message


def test_a_broken_device_met_while_loading_ends_the_engine():
    class Broken(FakeRunner):
        def load(self, *_):
            raise DeviceFault("CUDA error: an illegal memory access")

    show = Show()
    show.models._runner = Broken()
    show.know("a", load=True)
    with pytest.raises(DeviceFault):
        show.step()


def test_room_is_made_by_who_is_wanted_by_nobody():
    show = Show(budget=20, stay_seconds=1.0).know("a", "b", "c")
    for name in ("a", "b"):
        show.ask(name)
        show.finish()
    show.clock.now += 5
    show.ask("a")
    show.finish()
    show.clock.now += 5
    show.ask("c")
    show.finish()
    assert show.story() == ["+a", "+b", "-b", "+c"]
    assert show.of(ModelUnloaded)[0].evicted
    assert show.resident == {"a", "c"}


def test_an_evicted_model_comes_back_from_ram_without_being_loaded_again():
    show = Show(budget=10, ram=10, stay_seconds=0.5).know("a", "b")
    for name in ("a", "b", "a", "b"):
        show.ask(name)
        show.finish()
    assert show.story() == ["+a", "-a", "+b", "-b", "+a", "-a", "+b"]
    assert show.runner._loads == {"a": 1, "b": 1}
    assert show.of(Memory)[-1] == Memory(10, 10, 10, ("b",))


def test_what_two_models_share_is_on_the_device_once():
    show = Show(budget=25)
    for name in ("a", "b"):
        show.know(name, source="fake:?bytes=10&shared=clip&shared_bytes=5")
    for name in ("a", "b", "a", "b"):
        show.ask(name)
        show.finish()
    assert show.story() == ["+a", "-a", "+b", "+a"], "that b shares something is known once it was loaded"
    assert show.resident == {"a", "b"}
    assert show.of(Memory)[-1].device_bytes == 25


def test_a_pinned_model_never_makes_room():
    show = Show(budget=20).know("p", pin=True).know("a", "b")
    for name in ("p", "a", "b", "a", "b"):
        show.clock.now += 10
        show.ask(name)
        show.finish()
    assert "-p" not in show.story()
    assert set(show.ended().values()) == {"completed"}


def test_what_can_never_fit_fails_at_once_with_both_numbers():
    show = Show(budget=20_000_000).know("big", size=30_000_000)
    id_ = show.ask("big")
    assert show.ended() == {id_: "model_too_large"}
    assert "30.0 MB" in show.events[-1].error.message
    assert "20.0 MB" in show.events[-1].error.message
    show.know("big", size=30_000_000, load=True)
    show.step()
    assert show.story() == ["!big"]
    assert show.runner._loads == {}


def test_what_pinned_models_leave_is_all_there_is():
    show = Show(budget=30_000_000).know("p", size=20_000_000, pin=True, load=True)
    show.step()
    show.know("a", size=11_000_000)
    show.ask("a")
    assert "20.0 MB of it pinned" in show.of(Failed)[0].error.message


@pytest.mark.parametrize("size", [15, 25])
def test_a_source_that_promised_less_than_it_takes_is_planned_for_again(size):
    show = Show(budget=20, stay_seconds=0.1).know("a").know("liar", source=f"fake:?bytes={size}&promise=1")
    show.ask("a")
    show.finish()
    id_ = show.ask("liar")
    show.finish()
    show.step()
    assert show.ended()[id_] == ("completed" if size == 15 else "model_too_large")
    assert show.of(Memory)[-1].device_bytes <= 20
    refused = show.ask("liar")
    show.finish()
    assert show.ended()[refused] == show.ended()[id_]


@pytest.mark.parametrize(("times", "code"), [(1, "completed"), (2, "model_load_failed")])
def test_memory_that_runs_out_while_loading_makes_more_room_and_one_more_try(times, code):
    show = Show(budget=20_000_000, ram=50).know("a", size=10_000_000).know("m", source=f"fake:?bytes=10000000&oom_loads={times}")
    show.ask("a")
    show.finish()
    id_ = show.ask("m")
    show.finish()
    assert show.ended()[id_] == code
    assert show.story()[:2] == ["+a", "-a"]
    if code != "completed":
        message = show.of(Failed)[0].error.message
        assert "needs 10.0 MB" in message
        assert "20.0 MB were left" in message


def test_a_model_with_begun_rows_keeps_them_and_begins_no_more_before_it_goes():
    show = Show(budget=10, stay_seconds=0.5, patience_seconds=5.0).know("a", "b")
    begun = show.ask("a", steps=30)
    show.step(8)
    waiting = show.ask("b", steps=200)
    later = show.ask("a", steps=3)
    show.finish()
    assert list(show.ended()) == [begun, waiting, later]
    assert show.story() == ["+a", "-a", "+b", "-b", "+a"]


def test_less_work_waits_until_its_patience_ends():
    show = Show(budget=10, stay_seconds=0.5, patience_seconds=8.0).know("a", "b")
    for _ in range(40):
        show.ask("a", steps=10, images=4)
    show.step(5)
    show.ask("b", steps=2)
    for _ in range(300):
        show.step()
        if "+b" in show.story():
            break
        show.ask("a", steps=10, images=4)
    assert "+b" in show.story()
    assert 8.0 <= show.clock.now <= 25.0


def test_a_request_that_needs_two_models_gets_them_one_after_the_other():
    show = Show(budget=10, stay_seconds=0.5).know("base", "refiner")
    ids = [show.ask("base", steps=10, images=2, refiner=Refiner("refiner", 0.5)) for _ in range(3)]
    show.finish()
    assert show.ended() == dict.fromkeys(ids, "completed")
    assert show.story()[:3] == ["+base", "-base", "+refiner"]


def test_a_refiner_that_does_not_load_fails_only_those_who_need_it():
    show = Show().know("base").know("refiner", source="fake:?fail_load=true")
    refined, plain = show.ask("base", refiner=Refiner("refiner", 0.5)), show.ask("base")
    show.finish()
    assert show.ended() == {refined: "model_load_failed", plain: "completed"}


def test_unloading_lets_begun_rows_end_and_is_answered():
    show = Show().know("a")
    id_ = show.ask("a", steps=10)
    show.step(4)
    show.events += show.engine.unload("a")
    show.finish()
    show.step()
    assert show.ended() == {id_: "completed"}
    assert show.story() == ["+a", "-a"]
    assert not show.of(ModelUnloaded)[0].evicted
    again = show.ask("a")
    show.finish()
    assert show.ended()[again] == "completed", "it stays known"


def test_unloading_what_is_still_on_its_way():
    loader = HandLoader()
    show = Show(loader=loader).know("a", load=True)
    show.step()
    show.events += show.engine.unload("a")
    show.step()
    loader.finish()
    show.step()
    assert show.story() == ["+a", "-a"]
    assert show.resident == set()
    show.events += show.engine.unload("a")
    show.events += show.engine.unload("never heard of")
    show.step()
    assert show.story() == ["+a", "-a", "-a"], "it is answered even if there is nothing to do"


def test_loading_what_is_there_is_answered_at_once():
    show = Show().know("a", load=True)
    show.step()
    show.know("a", load=True)
    assert show.story() == ["+a", "+a"]
    assert show.runner._loads == {"a": 1}


def test_a_card_that_differs_only_in_limits_changes_nothing_on_the_device():
    show = Show().know("a", load=True)
    show.step()
    show.know("a", load=True, limits=Limits(max_rows=1), defaults=Defaults(steps=1), pin=True)
    show.step(3)
    assert show.runner._loads == {"a": 1}
    show.ask("a", images=3)
    show.finish()
    assert max(batch.size for batch in show.runner.batches if batch.phase == "denoise") == 1


def test_a_card_with_another_source_is_loaded_anew_once_begun_rows_are_done():
    show = Show().know("a", load=True)
    old = show.ask("a", steps=10)
    show.step(4)
    show.know("a", size=11)
    new = show.ask("a", steps=2)
    show.finish()
    assert list(show.ended()) == [old, new]
    assert show.story() == ["+a", "-a", "+a"]
    assert show.of(Memory)[-1].device_bytes == 11


def test_a_command_waits_for_nobody_s_stay():
    show = Show(budget=10, stay_seconds=1000.0).know("a", "b", load=True)
    show.step(3)
    assert show.story() == ["+a", "-a", "+b"]


def test_swaps_are_bounded_by_the_stay():
    """Two models, room for one, requests for both all the time: each stay is at least what the rule says."""
    show = Show(budget=10, stay_seconds=4.0).know("a", "b")
    for turn in range(400):
        if turn % 3 == 0:
            show.ask("a", steps=2)
            show.ask("b", steps=2)
        show.step()
    loads = len(show.of(ModelLoaded))
    assert 3 <= loads <= 40.0 / 4.0 + 1


arrivals = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from("abcde"), st.integers(1, 3), st.integers(1, 8)), min_size=1, max_size=16
)
commands = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["load", "unload", "cancel"]), st.integers(0, 4)), max_size=6)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(arrivals, commands, st.integers(10, 40), st.integers(0, 30), st.booleans())
def test_every_request_ends_once_and_the_budget_holds_whatever_comes_and_goes(plan, orders, budget, ram, by_hand):
    loader = HandLoader() if by_hand else None
    show = Show(budget=budget, ram=ram, loader=loader, stay_seconds=0.3, patience_seconds=3.0)
    for index, name in enumerate("abcde"):
        show.know(
            name, source=f"fake:?bytes={4 + 2 * index}&shared={'clip' if index % 2 else ''}&shared_bytes=2", pin=name == "a"
        )
    waiting = sorted(enumerate(plan), key=lambda entry: entry[1][0])
    asked = {}
    for turn in range(3000):
        while waiting and waiting[0][1][0] <= turn:
            index, (_, model, images, steps) = waiting.pop(0)
            asked[index] = show.ask(model, steps=steps, images=images)
        for at, what, index in orders:
            if at == turn and what == "cancel" and index in asked:
                show.events += show.engine.cancel(asked[index])
            elif at == turn and what == "unload":
                show.events += show.engine.unload("abcde"[index])
            elif at == turn and what == "load":
                show.events += show.engine.load(show.models._known["abcde"[index]].card)
        show.step()
        if by_hand and loader.work is not None and turn % 3 == 0:
            loader.finish()
        ledger = show.residency.ledger
        assert ledger.device_bytes() <= budget
        assert ledger.ram_bytes() <= ram or show.models._arrival is not None, "two that trade places are both in RAM for a moment"
        assert {row.key.model for row in show.engine._scheduler.rows() if row.phase != "encode"} <= show.resident
        if not waiting and not show.engine.busy and turn > 61:
            break
    else:
        raise AssertionError("it does not end")
    ended = Counter(event.id for event in show.of((Completed, Failed)))
    assert ended == dict.fromkeys(asked.values(), 1)
    codes = set(show.ended().values())
    assert codes <= {"completed", "cancelled", "model_too_large"}
    finished = {event.id for event in show.of(Completed)}
    assert Counter(e.id for e in show.of(ImageDone) if e.id in finished) == {
        asked[index]: images for index, (_, _, images, _) in enumerate(plan) if asked[index] in finished
    }


def test_a_loader_s_thread_wakes_who_waits_for_it():
    import selectors

    loader = ThreadLoader()
    gate = threading.Event()

    def work(progress):
        progress("part", 0.5)
        gate.wait(30)
        raise OutOfMemory("no room")

    with selectors.DefaultSelector() as selector:
        selector.register(loader, selectors.EVENT_READ)
        loader.begin(work)
        assert selector.select(30)
        assert loader.poll() == [Moved("part", 0.5)]
        assert loader.busy
        gate.set()
        assert selector.select(30)
        (ended,) = loader.poll()
        assert isinstance(ended.error, OutOfMemory)
        assert not selector.select(0), "everything has been collected"
