"""Preprocessing in the worker's loop: beside the ticks, in order, cancellable, bounded. Events are what the tests wait for."""

import queue
import socket
import threading

import pytest

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import BadPicture
from pipelines.contract.family import Family
from pipelines.contract.messages import (
    Cancel,
    Completed,
    Drain,
    Drained,
    Failed,
    Generate,
    LoadModel,
    Preparing,
    Preprocess,
    Preprocessed,
    Tick,
    decode_event,
    encode,
)
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.engine import Engine
from pipelines.engine.fake import FakeRunner
from pipelines.engine.loader import ThreadLoader
from pipelines.worker.link import Link
from pipelines.worker.loop import serve
from pipelines.worker.preparation import Preparation

DOT = Picture(1, 1, "RGB", b"abc")


class NoSignals:
    """Of the process, which the test run has for itself."""

    terminated = False

    def __init__(self):
        self._ends = socket.socketpair()

    def fileno(self):
        return self._ends[0].fileno()


class Bench:
    """Work that waits until it is let go: the test decides when each one ends, and how."""

    def __init__(self):
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.go: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.threads: set[int] = set()

    def __call__(self, work, progress):
        self.threads.add(threading.get_ident())
        progress("weights", 0.5)
        self.begun.put(work.id)
        how = self.go.get(timeout=20)
        if isinstance(how, BaseException):
            raise how
        return Picture(1, 1, "RGB", work.id.encode().ljust(3)[:3])


class Played:
    """The loop in a thread, and the server's end of its pipe."""

    def __init__(self, **options):
        ours, theirs = socket.socketpair()
        self.bench, self.sock = Bench(), ours
        ours.settimeout(20)
        self.preparation = Preparation(lambda: self.bench, **options)
        arguments = Link(theirs), Engine(FakeRunner()), NoSignals(), [ThreadLoader()], self.preparation
        self.thread = threading.Thread(target=serve, args=arguments, daemon=True)
        self.thread.start()
        self.unread = b""

    def send(self, *commands):
        for command in commands:
            frame = encode(command)
            self.sock.sendall(len(frame).to_bytes(4, "big") + frame)

    def until(self, kind, **fields):
        events = []
        while not events or not (isinstance(events[-1], kind) and all(getattr(events[-1], k) == v for k, v in fields.items())):
            events.append(decode_event(self._exactly(int.from_bytes(self._exactly(4), "big"))))
        return events

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            assert chunk, "the loop has left"
            data += chunk
        return data


@pytest.fixture
def played():
    made = []

    def make(**options):
        made.append(Played(**options))
        return made[-1]

    yield make
    for each in made:
        each.sock.close()
        each.thread.join(20)
        assert not each.thread.is_alive()


def job(name):
    return Preprocess(name, "canny", None, DOT)


def picture_of(name):
    return Picture(1, 1, "RGB", name.encode().ljust(3)[:3])


def test_ticks_go_on_while_a_picture_is_preprocessed(played):
    worker = played()
    worker.send(job("a"), LoadModel(ModelCard("m", "fake:", Family.FAKE)))
    assert worker.bench.begun.get(timeout=20) == "a"
    request = ImageRequest("r", "m", "p", 8, 8, (1, 2), Sampling("euler", 20, 1.0))
    worker.send(Generate(request))
    events = worker.until(Completed, id="r")
    assert sum(isinstance(event, Tick) for event in events) >= 20
    assert not any(isinstance(event, Preprocessed) for event in events), "it is still at work: nobody has let it go"
    worker.bench.go.put(None)
    assert worker.until(Preprocessed)[-1].picture == picture_of("a")
    assert worker.thread.ident not in worker.bench.threads


def test_an_idle_worker_wakes_up_for_the_result(played):
    worker = played()
    worker.send(job("a"))
    worker.bench.go.put(None)
    events = worker.until(Preprocessed)
    assert events[0] == Preparing("a", "weights", 0.5)
    assert events[-1].seconds >= 0


def test_pictures_are_done_in_their_order_by_one_thread(played):
    worker = played()
    worker.send(job("a"), job("b"), job("c"))
    for _ in "abc":
        worker.bench.go.put(None)
    events = worker.until(Preprocessed, id="c")
    assert [event.id for event in events if isinstance(event, Preprocessed)] == ["a", "b", "c"]
    assert len(worker.bench.threads) == 1


def test_what_waits_can_be_cancelled_and_is_never_begun(played):
    worker = played()
    worker.send(job("a"), job("b"), job("c"))
    worker.bench.begun.get(timeout=20)
    worker.send(Cancel("b"), Cancel("nobody"))
    assert worker.until(Failed)[-1].error.code == "cancelled"
    worker.bench.go.put(None)
    worker.bench.go.put(None)
    worker.until(Preprocessed, id="c")
    assert worker.bench.begun.get_nowait() == "c"


def test_what_is_at_work_is_cancelled_at_once_and_its_result_thrown_away(played):
    worker = played()
    worker.send(job("a"))
    worker.bench.begun.get(timeout=20)
    worker.send(Cancel("a"))
    assert worker.until(Failed)[-1].id == "a"
    worker.send(job("b"))
    worker.bench.go.put(None)
    worker.bench.go.put(None)
    events = worker.until(Preprocessed)
    assert events[-1].id == "b"


def test_the_line_is_bounded(played):
    worker = played(waiting=2)
    worker.send(job("a"))
    worker.bench.begun.get(timeout=20)
    worker.send(job("b"), job("c"), job("d"))
    refused = worker.until(Failed)[-1]
    assert (refused.id, refused.error.code) == ("d", "overloaded")
    assert refused.error.retry_after > 0


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_id_in_flight_is_not_taken_twice(played, name):
    worker = played()
    worker.send(job("a"))
    worker.bench.begun.get(timeout=20)
    worker.send(job("b"), job(name))
    assert worker.until(Failed)[-1].error.code == "invalid_request"
    for _ in "ab":
        worker.bench.go.put(None)
    worker.until(Preprocessed, id="b")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadPicture("no", param="image"), "bad_picture"),
        (ZeroDivisionError("odd"), "engine_failure"),
        (MemoryError(), "out_of_memory"),
    ],
)
def test_errors_end_one_and_the_next_is_done(played, error, code):
    worker = played()
    worker.send(job("a"), job("b"))
    worker.bench.go.put(error)
    worker.bench.go.put(None)
    assert worker.until(Failed)[-1].error.code == code
    worker.until(Preprocessed, id="b")


def test_draining_finishes_the_line_and_refuses_the_rest(played, until):
    worker = played()
    worker.send(job("a"), job("b"), Drain())
    until(lambda: worker.preparation._draining)
    worker.send(job("late"))
    assert worker.until(Failed)[-1].error.code == "shutting_down"
    worker.bench.go.put(None)
    worker.bench.go.put(None)
    events = worker.until(Drained)
    assert [event.id for event in events if isinstance(event, Preprocessed)] == ["a", "b"]


def test_a_beginning_that_fails_is_tried_again():
    bench, tries = Bench(), iter([ImportError("no cv2"), None])

    def begin():
        if error := next(tries):
            raise error
        return bench

    preparation = Preparation(begin)
    bench.go.put(None)
    for name in "ab":
        assert preparation.submit(job(name)) == []
    events = []
    while len(events) < 3:
        preparation._read.setblocking(True)
        preparation._read.settimeout(20)
        events += preparation.poll()
    assert [type(event) for event in events] == [Failed, Preparing, Preprocessed]
    assert not preparation.busy
