"""The worker as the server meets it: a real process at the end of a real socketpair."""

import os
import signal
import socket
import subprocess
import sys

import msgspec
import pytest

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import (
    Cancel,
    Command,
    Completed,
    Drain,
    Drained,
    Event,
    Failed,
    Generate,
    Hello,
    ImageDone,
    LoadModel,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    Preview,
    Progress,
    Tick,
    decode_event,
    encode,
)
from pipelines.contract.request import ImageRequest, Sampling

CARD = ModelCard(id="fake", source="fake:?tick=0.005&crash_seed=13&fail_seed=15", family=Family.FAKE)


def request(id_: str, **changes: object) -> ImageRequest:
    fields = {
        "id": id_,
        "model": "fake",
        "prompt": "x",
        "width": 64,
        "height": 64,
        "seeds": (1,),
        "sampling": Sampling(sampler="euler", steps=4, guidance_scale=5.0),
    }
    return ImageRequest(**(fields | changes))


class Process:
    """A worker and the parent's end of its pipe."""

    def __init__(self, *arguments: str) -> None:
        ours, theirs = socket.socketpair()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "pipelines.worker", "--fd", str(theirs.fileno()), *arguments], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self.sock = ours
        self.sock.settimeout(60)

    def send(self, command: Command) -> None:
        frame = encode(command)
        self.sock.sendall(len(frame).to_bytes(4, "big") + frame)

    def receive(self) -> Event | None:
        head = self._exactly(4)
        return None if head is None else decode_event(self._exactly(int.from_bytes(head, "big")))

    def until(self, kind: type, **fields: object) -> list[Event]:
        events = []
        while (event := self.receive()) is not None:
            events.append(event)
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                return events
        msg = f"the worker left before {kind.__name__}: {events}"
        raise AssertionError(msg)

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                return None
            data += chunk
        return data


@pytest.fixture
def worker():
    process = Process("--device", "fake")
    yield process
    process.sock.close()
    process.child.wait(timeout=30)


@pytest.fixture
def ready(worker):
    worker.send(LoadModel(CARD))
    worker.until(ModelLoaded)
    return worker


def test_says_hello_loads_and_draws(worker):
    hello = worker.receive()
    assert isinstance(hello, Hello)
    assert hello.pid == worker.child.pid
    worker.send(LoadModel(CARD))
    loading = worker.until(ModelLoaded)
    assert [event.fraction for event in loading if isinstance(event, ModelLoading)] == sorted(
        event.fraction for event in loading if isinstance(event, ModelLoading)
    )
    worker.send(Generate(request("a", seeds=(1, 2), preview_every=2)))
    events = worker.until(Completed, id="a")
    done = [event for event in events if isinstance(event, ImageDone)]
    assert {event.image for event in done} == {0, 1}
    assert done[0].picture != done[1].picture
    assert [event.step for event in events if isinstance(event, Progress) and event.image == 0] == [1, 2, 3, 4]
    assert any(isinstance(event, Preview) for event in events)
    ticks = [event for event in events if isinstance(event, Tick) and event.phase == "denoise"]
    assert all(tick.rows == 2 and tick.evaluations == 4 for tick in ticks)
    stats = events[-1].stats
    assert stats.evaluations == 16
    assert stats.company == 4.0
    assert stats.denoise_seconds >= 4 * 0.005


def test_refuses_what_it_does_not_know(ready):
    ready.send(Generate(request("b", model="other")))
    assert ready.until(Failed)[-1].error.code == "unknown_model"


def test_reports_a_model_that_does_not_load(worker):
    worker.send(LoadModel(ModelCard(id="bad", source="fake:?fail_load=true", family=Family.FAKE)))
    assert worker.until(ModelFailed)[-1].error.code == "model_load_failed"
    worker.send(LoadModel(ModelCard(id="worse", source="fake:?no_such_fault=1", family=Family.FAKE)))
    assert "no_such_fault" in worker.until(ModelFailed, model="worse")[-1].error.message


def test_cancel_ends_one_and_leaves_the_others(ready):
    long = msgspec.structs.replace(request("long"), sampling=Sampling(sampler="euler", steps=1000, guidance_scale=1.0))
    ready.send(Generate(long))
    ready.until(Progress, id="long", step=3)
    ready.send(Generate(request("short")))
    ready.until(Progress, id="short", step=1)
    ready.send(Cancel("long"))
    ready.send(Cancel("never heard of"))
    events = ready.until(Completed, id="short")
    assert [event.error.code for event in events if isinstance(event, Failed)] == ["cancelled"]


def test_a_fault_in_company_fails_only_its_row(ready):
    for name, seed in (("good", 1), ("bad", 15), ("fine", 2)):
        ready.send(Generate(request(name, seeds=(seed,), sampling=Sampling(sampler="euler", steps=50, guidance_scale=1.0))))
    ended = {}
    while len(ended) < 3:
        event = ready.receive()
        if isinstance(event, (Completed, Failed)):
            ended[event.id] = event
    assert isinstance(ended["good"], Completed)
    assert isinstance(ended["fine"], Completed)
    assert ended["bad"].error.code == "engine_failure"


@pytest.mark.parametrize("how", ["drain", "sigterm"])
def test_draining_finishes_what_is_in_flight_and_refuses_the_rest(ready, how):
    ready.send(Generate(request("a", sampling=Sampling(sampler="euler", steps=40, guidance_scale=1.0))))
    ready.until(Progress, id="a", step=1)
    if how == "drain":
        ready.send(Drain())
    else:
        os.kill(ready.child.pid, signal.SIGTERM)
        ready.until(Tick)
    ready.send(Generate(request("late")))
    events = ready.until(Drained)
    assert any(isinstance(event, Completed) and event.id == "a" for event in events)
    assert all(event.error.code == "shutting_down" for event in events if isinstance(event, Failed))
    assert ready.child.wait(timeout=30) == 0


def test_sigterm_while_idle_ends_it(ready):
    os.kill(ready.child.pid, signal.SIGTERM)
    ready.until(Drained)
    assert ready.child.wait(timeout=30) == 0


def test_leaves_when_the_parent_is_gone(ready):
    ready.send(Generate(request("a", sampling=Sampling(sampler="euler", steps=1000, guidance_scale=1.0))))
    ready.until(Progress, id="a", step=1)
    ready.sock.close()
    assert ready.child.wait(timeout=30) == 0


def test_its_own_death_is_the_end_of_the_stream(ready):
    ready.send(Generate(request("a", seeds=(13,))))
    while ready.receive() is not None:
        pass
    assert ready.child.wait(timeout=30) == -signal.SIGKILL
