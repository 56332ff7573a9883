"""The fleet against scripted workers: the other end of the socketpair is played by the test itself."""

import asyncio
import contextlib
import socket
from types import MappingProxyType

import pytest

from pipelines.contract.catalog import Defaults, Family, ModelCard, ModelFacts
from pipelines.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineFailure,
    ErrorReport,
    ModelLoadFailed,
    RequestKillsWorker,
    ShuttingDown,
    WorkerLost,
)
from pipelines.contract.messages import (
    PROTOCOL,
    Cancel,
    Completed,
    Drain,
    Drained,
    Failed,
    Generate,
    Hello,
    ImageDone,
    LoadModel,
    ModelFailed,
    ModelLoaded,
    Phase,
    Progress,
    RunStats,
    Tick,
    decode_command,
    encode,
)
from pipelines.contract.request import ImageRequest, Picture, Refiner, Sampling
from server.catalog.catalog import Catalog
from server.domain.call import Call
from server.domain.clock import SetClock
from server.fleet.backoff import Backoff
from server.fleet.devices import count_cuda, resolve
from server.fleet.fleet import Fleet
from server.fleet.health import WorkerState
from server.fleet.link import MAX_FRAME, Link
from server.fleet.pace import Pace
from server.fleet.supervisor import Patience
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics

CATALOG = Catalog(
    "m", MappingProxyType({name: ModelCard(name, "fake:", Family.FAKE, defaults=Defaults()) for name in ("m", "lazy")})
)
FACTS = ModelFacts(Family.FAKE, "epsilon", "float32", 0, 0, 4, inpainting=False, load_seconds=0.0)
STATS = RunStats(0, 0, 0, 0, 4, 1.0)


def request(name, model="m", steps=4, **fields):
    sampling = Sampling("euler", steps, 1.0)
    return ImageRequest(id=name, model=model, prompt="p", width=8, height=8, seeds=(1,), sampling=sampling, **fields)


class Played:
    """One worker process whose part the test plays."""

    def __init__(self, own, link):
        self.own, self.link, self.pid = own, link, 1
        self.ended = asyncio.get_running_loop().create_future()

    async def wait(self):
        return await asyncio.shield(self.ended)

    def terminate(self):
        self.die(0)

    def kill(self):
        self.die(-9)

    def die(self, code=-9):
        if not self.ended.done():
            self.ended.set_result(code)
            self.own.close()

    async def heard(self):
        async with asyncio.timeout(5):
            frame = await self.own.receive()
        return None if frame is None else decode_command(frame)

    def say(self, *events):
        for event in events:
            self.own.send(encode(event))

    async def up(self, protocol=PROTOCOL):
        """Say hello and load whatever is preloaded."""
        self.say(Hello(protocol, 1, "fake", "played", 0))
        assert (await self.heard()).card.id == "m"
        self.say(ModelLoaded("m", FACTS))
        return self

    def finish(self, name):
        self.say(
            Tick("m", Phase.DENOISE, 1, 1, 0, 0.1, False, 0),
            Progress(name, 0, 4, 4),
            ImageDone(name, 0, Picture(8, 8, "RGB", bytes(192))),
            Completed(name, STATS),
        )


class Stage:
    """A host whose workers are played; `enter` gives the next one."""

    def __init__(self):
        self.spawned = asyncio.Queue()
        self.refusals = 0

    async def spawn(self, name, device):  # noqa: ARG002 - the protocol's signature
        if self.refusals:
            self.refusals -= 1
            raise OSError("no such program")
        ours, theirs = socket.socketpair()
        played = Played(Link(theirs), Link(ours))
        await self.spawned.put(played)
        return played

    async def enter(self):
        async with asyncio.timeout(5):
            return await self.spawned.get()


class Show:
    def __init__(self, devices=("fake",)):
        self.clock, self.stage, self.metrics = SetClock(), Stage(), Metrics()
        self.fleet = Fleet(
            devices,
            host=self.stage,
            catalog=CATALOG,
            patience=Patience(starting=1000.0, working=100.0),
            clock=self.clock,
            metrics=self.metrics,
            log=silent(),
        )

    async def ready(self):
        async with asyncio.timeout(5):
            while self.fleet.health()[0].state is not WorkerState.READY:  # noqa: ASYNC110 - health is asked, it does not tell
                await asyncio.sleep(0)

    def ask(self, name, **fields):
        return asyncio.create_task(self.fleet.generate(request(name, **fields), Call(name)))


@contextlib.asynccontextmanager
async def showing(devices=("fake",)):
    show = Show(devices)
    async with asyncio.timeout(20), show.fleet.running():
        yield show
        show.stage.refusals = 10**6
        while not show.stage.spawned.empty():
            show.stage.spawned.get_nowait().kill()
        for supervisor in show.fleet._supervisors:
            supervisor.kill()


async def ids(worker, count):
    return {(await worker.heard()).request.id for _ in range(count)}


async def test_a_request_goes_down_and_its_pictures_come_up():
    async with showing() as show:
        asked = show.ask("a")
        assert show.fleet.health()[0].state is WorkerState.STARTING
        worker = await (await show.stage.enter()).up()
        command = await worker.heard()
        assert isinstance(command, Generate)
        assert show.fleet.health()[0].state is WorkerState.BUSY
        worker.finish("a")
        generation = await asked
        assert (generation.model, generation.seeds, len(generation.pictures)) == ("m", (1,), 1)
        assert show.fleet.health()[0].state is WorkerState.READY
        assert b'aquatint_tick_evaluations_total{phase="denoise",worker="worker-0"} 1.0' in show.metrics.render()


async def test_a_model_is_loaded_at_its_first_request():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        first, second = show.ask("a", model="lazy"), show.ask("b", model="lazy")
        command = await worker.heard()
        assert isinstance(command, LoadModel)
        assert command.card.id == "lazy"
        worker.say(ModelLoaded("lazy", FACTS))
        assert await ids(worker, 2) == {"a", "b"}
        worker.finish("a")
        worker.finish("b")
        await asyncio.gather(first, second)


async def test_a_refiner_is_loaded_before_the_request_goes_down():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a", refiner=Refiner("lazy"))
        assert (await worker.heard()).card.id == "lazy"
        worker.say(ModelLoaded("lazy", FACTS))
        assert await ids(worker, 1) == {"a"}
        worker.finish("a")
        await asked


async def test_a_refiner_that_fails_to_load_fails_the_request():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a", refiner=Refiner("lazy"))
        await worker.heard()
        worker.say(ModelFailed("lazy", ErrorReport("model_load_failed", "no such file")))
        with pytest.raises(ModelLoadFailed, match="lazy"):
            await asked


async def test_a_model_that_fails_to_load_fails_its_requests_and_is_tried_again():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        for _ in range(2):
            asked = show.ask("a", model="lazy")
            assert isinstance(await worker.heard(), LoadModel)
            worker.say(ModelFailed("lazy", ErrorReport("model_load_failed", "no such file")))
            with pytest.raises(ModelLoadFailed, match="no such file"):
                await asked
        assert show.fleet.health()[0].failed == {"lazy": "no such file"}


async def test_cancelling_the_task_cancels_the_work():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        asked.cancel()
        assert await worker.heard() == Cancel("a")
        worker.say(Failed("a", Cancelled("told so").report()))
        with pytest.raises(asyncio.CancelledError):
            await asked


async def test_an_error_of_the_engine_comes_up_as_itself():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        worker.say(Failed("a", ErrorReport("out_of_memory", "8x8 does not fit")))
        with pytest.raises(EngineFailure, match="8x8") as caught:
            await asked
        assert caught.value.code == "out_of_memory"


async def test_completed_without_pictures_is_an_error_not_a_hang():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        worker.say(Completed("a", STATS))
        with pytest.raises(EngineFailure, match="without all of its images"):
            await asked


async def test_after_a_death_suspects_run_one_by_one_and_only_the_culprit_fails():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = {name: show.ask(name) for name in "abc"}
        await ids(worker, 3)
        worker.die()
        worker = await (await show.stage.enter()).up()
        assert await ids(worker, 1) == {"a"}
        fresh = show.ask("fresh")
        worker.finish("a")
        assert await ids(worker, 1) == {"b"}
        worker.die()
        worker = await (await show.stage.enter()).up()
        assert await ids(worker, 1) == {"c"}
        worker.finish("c")
        assert await ids(worker, 1) == {"fresh"}
        worker.finish("fresh")
        with pytest.raises(RequestKillsWorker):
            await asked["b"]
        await asyncio.gather(asked["a"], asked["c"], fresh)
        assert show.fleet.health()[0].restarts == 2


async def test_a_suspect_that_gets_further_than_before_is_cleared_and_the_next_joins_it():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = {name: show.ask(name) for name in "abc"}
        await ids(worker, 3)
        worker.say(Progress("a", 0, 1, 4), Tick("m", Phase.DENOISE, 1, 1, 0, 0.1, out_of_memory=False, waiting=0))
        worker.die()
        worker = await (await show.stage.enter()).up()
        assert await ids(worker, 1) == {"a"}
        worker.say(Progress("a", 0, 1, 4))  # as far as it was
        worker.say(Progress("a", 0, 2, 4))  # further
        assert await ids(worker, 1) == {"b"}
        worker.die()  # b is at its second death; a is a suspect again, at its first
        worker = await (await show.stage.enter()).up()
        with pytest.raises(RequestKillsWorker):
            await asked["b"]
        for name in ("c", "a"):  # c waited at the death, a comes back behind it
            assert await ids(worker, 1) == {name}
            worker.finish(name)
        await asyncio.gather(asked["a"], asked["c"])


async def test_a_request_at_too_many_deaths_fails_even_if_it_always_got_further():
    async with showing() as show:
        asked = show.ask("a", steps=20)
        for life in range(1, 5):
            worker = await (await show.stage.enter()).up()
            await worker.heard()
            worker.say(Progress("a", 0, life, 20))
            worker.die()
        with pytest.raises(RequestKillsWorker):
            await asked


async def test_a_second_image_of_the_same_seed_is_no_harm_after_a_rerun():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        worker.say(ImageDone("a", 0, Picture(8, 8, "RGB", b"\1" * 192)))
        worker.die()
        worker = await (await show.stage.enter()).up()
        await worker.heard()
        worker.finish("a")
        assert (await asked).pictures[0].data == bytes(192)


async def test_a_request_cancelled_before_the_rerun_is_not_run_again():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        asked.cancel()
        await asyncio.wait([asked])
        worker.die()
        worker = await (await show.stage.enter()).up()
        other = show.ask("b")
        assert await ids(worker, 1) == {"b"}
        worker.finish("b")
        await other


async def test_a_leaving_worker_hands_back_what_it_refuses():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        worker.say(Failed("a", ShuttingDown("draining").report()), Drained())
        late = show.ask("b")
        worker.die(0)
        worker = await (await show.stage.enter()).up()
        assert await ids(worker, 2) == {"a", "b"}  # neither was at a death: they may share
        worker.finish("a")
        worker.finish("b")
        await asyncio.gather(asked, late)


@pytest.mark.parametrize("nonsense", [b"\xc1", b"", encode(Drain()), b"\x81\xa4type\xa7unknown"])
async def test_a_process_that_is_no_worker_is_replaced(nonsense):
    async with showing() as show:
        worker = await show.stage.enter()
        worker.own.send(nonsense)
        assert await worker.wait() == -9
        await (await show.stage.enter()).up()
        assert "unreadable" in show.fleet.health()[0].reason


async def test_an_announced_frame_over_the_limit_ends_the_talk():
    async with showing() as show:
        worker = await show.stage.enter()
        worker.own._sock.send((MAX_FRAME + 1).to_bytes(4, "big"))
        await worker.wait()
        await (await show.stage.enter()).up()
        assert "over the limit" in show.fleet.health()[0].reason


async def test_another_protocol_is_refused():
    async with showing() as show:
        worker = await show.stage.enter()
        worker.say(Hello(PROTOCOL + 1, 1, "fake", "newer", 0))
        await worker.wait()
        await (await show.stage.enter()).up()
        assert "protocol" in show.fleet.health()[0].reason


async def test_without_any_worker_requests_fail_instead_of_waiting_for_ever():
    async with showing() as show:
        show.stage.refusals = 3
        with pytest.raises(WorkerLost, match="no such program"):
            await show.ask("a")
        with pytest.raises(WorkerLost):
            await show.ask("b")
        worker = await (await show.stage.enter()).up()  # it goes on trying, and recovers
        await show.ready()
        asked = show.ask("c")
        assert await ids(worker, 1) == {"c"}
        worker.finish("c")
        await asked


async def test_a_silent_worker_is_killed():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        show.clock.advance(101)
        assert await worker.wait() == -9
        worker = await (await show.stage.enter()).up()
        assert "hung" in show.fleet.health()[0].reason
        await worker.heard()
        worker.finish("a")
        await asked


async def test_an_idle_worker_may_be_silent():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        show.clock.advance(10_000)
        asked = show.ask("a")
        await worker.heard()
        worker.finish("a")
        await asked


async def test_a_deadline_that_passed_while_waiting():
    async with showing() as show:
        asked = show.ask("a", deadline=show.clock.time() + 5)
        worker = await show.stage.enter()
        show.clock.advance(6)
        await worker.up()
        with pytest.raises(DeadlineExceeded):
            await asked


async def test_work_is_spread_and_moves_when_a_worker_dies():
    async with showing(("cuda:0", "cuda:1")) as show:
        workers = [await (await show.stage.enter()).up() for _ in range(2)]
        asked = [show.ask(name) for name in "abcd"]
        shares = [await ids(worker, 2) for worker in workers]
        assert sorted(map(len, shares)) == [2, 2]
        workers[0].die()
        moved = await ids(workers[1], 0)
        assert moved == set()
        for name in shares[1]:
            workers[1].finish(name)
        for _ in shares[0]:  # suspects, one by one
            name = (await workers[1].heard()).request.id
            workers[1].finish(name)
        await asyncio.gather(*asked)


async def test_the_estimate_follows_backlog_and_pace():
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        worker.finish("a")  # 8 x 8 x 4 pixel-steps in 0.1 s
        await asked
        assert show.fleet.wait_seconds() == 0
        assert show.fleet.wait_seconds(2560) == pytest.approx(1.0)
        show.ask("b")
        await worker.heard()
        assert show.fleet.wait_seconds() == pytest.approx(0.1)


async def test_shutting_down_refuses_and_drains():
    show = Show()
    async with asyncio.timeout(20):
        async with show.fleet.running() as fleet:
            worker = await (await show.stage.enter()).up()
            ready = show.ask("a")
            await worker.heard()
            worker.finish("a")
            await ready
            leave = asyncio.create_task(_leave(worker))
        await leave
        with pytest.raises(ShuttingDown):
            await fleet.generate(request("late"), Call("late"))


async def _leave(worker):
    assert isinstance(await worker.heard(), Drain)
    worker.say(Drained())
    worker.die(0)


def test_backoff_doubles_up_to_a_limit_and_starts_anew():
    backoff = Backoff(first=0.1, most=1.0)
    assert [backoff.fail() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    backoff.succeed()
    assert backoff.fail() == 0.1


def test_pace_forgets_slowly():
    clock = SetClock()
    pace = Pace(clock)
    pace.add(1000, 1.0)
    assert pace.rate == 1000
    clock.advance(600)
    pace.add(10, 1.0)
    assert pace.rate == pytest.approx(10, rel=0.2)


@pytest.mark.parametrize(
    ("wanted", "found", "devices"),
    [
        (("auto",), 2, ("cuda:0", "cuda:1")),
        (("auto",), 0, ("cpu",)),
        (("cuda",), 3, ("cuda:0", "cuda:1", "cuda:2")),
        (("cuda",), 0, ("cuda:0",)),
        (("cuda:1", "cpu"), 0, ("cuda:1", "cpu")),
        (("fake",), 0, ("fake",)),
    ],
)
def test_devices(wanted, found, devices):
    assert resolve(wanted, lambda: found) == devices


def test_cuda_devices_are_counted_without_torch(tmp_path):
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / node).touch()
    counts = {
        visible: count_cuda({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, dev=tmp_path, driver=lambda: None)
        for visible in (None, "", "-1", "1", "0,1", "0,9,1", "GPU-1b2c,GPU-99")
    }
    assert counts == {None: 2, "": 0, "-1": 0, "1": 1, "0,1": 2, "0,9,1": 1, "GPU-1b2c,GPU-99": 2}
    assert count_cuda({}, dev=tmp_path, driver=lambda: 8) == 8


async def test_frames_of_any_size_cross_whole_and_in_order():
    ours, theirs = map(Link, socket.socketpair())
    frames = [b"", b"x", bytes(5_000_000), b"end"]
    for frame in frames:
        ours.send(frame)
    assert [await theirs.receive() for _ in frames] == frames
    ours.close()
    assert await theirs.receive() is None
    theirs.send(b"nobody hears this")
    theirs.close()


async def test_last_words_are_read_even_after_a_failed_write():
    ours, theirs = map(Link, socket.socketpair())
    ours.send(b"unread")
    theirs.send(b"farewell")
    theirs.close()
    ours.send(b"too late")
    assert await ours.receive() == b"farewell"
    assert await ours.receive() is None
    ours.close()
