"""The fleet against scripted workers: the other end of the socketpair is played by the test itself."""

import asyncio
import contextlib
import json
import socket

import msgspec
import pytest

from pipelines.contract.catalog import ModelFacts
from pipelines.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineFailure,
    ErrorReport,
    InvalidRequest,
    ModelLoadFailed,
    ModelTooLarge,
    RequestKillsWorker,
    ShuttingDown,
    UnknownModel,
    WorkerLost,
)
from pipelines.contract.family import Family
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
    KnowModel,
    LoadModel,
    Memory,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    Phase,
    Progress,
    RunStats,
    Tick,
    UnloadModel,
    decode_command,
    encode,
)
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Refiner, Sampling
from server.catalog.current import CurrentCatalog
from server.domain.call import Call
from server.domain.clock import SetClock
from server.fleet.backoff import Backoff
from server.fleet.devices import count_cuda, resolve
from server.fleet.fleet import Fleet
from server.fleet.health import ModelState, WorkerState
from server.fleet.link import MAX_FRAME, Link
from server.fleet.pace import Pace
from server.fleet.roster import name_of
from server.fleet.supervisor import Patience
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics

MODELS = {"m": {"preload": True}, "lazy": {}}


def written(default="m", **models):
    """A models.yaml; each keyword is a model with what its card says."""
    cards = {name: {"source": "fake:", "family": "fake", **fields} for name, fields in models.items()}
    return json.dumps({"server": {"default_model": default}, "models": cards})


FACTS = ModelFacts(Family.FAKE, "epsilon", "float32", 0, 0, 4, inpainting=False, load_seconds=0.0)
STATS = RunStats(0, 0, 0, 0, 4, 1.0)


def request(name, model="m", steps=4, **fields):
    sampling = Sampling("euler", steps, 1.0)
    return ImageRequest(id=name, model=model, prompt="p", width=8, height=8, seeds=(1,), sampling=sampling, **fields)


class Played:
    """One worker process whose part the test plays."""

    def __init__(self, own, link, show):
        self.own, self.link, self.pid, self.show = own, link, 1, show
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
        async with asyncio.timeout(60):
            frame = await self.own.receive()
        return None if frame is None else decode_command(frame)

    def say(self, *events):
        for event in events:
            self.own.send(encode(event))

    async def up(self, protocol=PROTOCOL):
        """Say hello, hear of every model, and load what is to be loaded at once."""
        self.say(Hello(protocol, 1, "fake", "played", 0))
        told = [await self.heard() for _ in self.show.current.catalog.cards]
        assert told[0] == LoadModel(msgspec.structs.replace(self.show.current.catalog.card(None), id=self.show.name("m")))
        self.say(*(ModelLoaded(each.card.id, FACTS) for each in told if isinstance(each, LoadModel)))
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

    def __init__(self, show):
        self.show = show
        self.spawned = asyncio.Queue()
        self.refusals = 0

    async def spawn(self, name, device):  # noqa: ARG002 - the protocol's signature
        if self.refusals:
            self.refusals -= 1
            raise OSError("no such program")
        ours, theirs = socket.socketpair()
        played = Played(Link(theirs), Link(ours), self.show)
        await self.spawned.put(played)
        return played

    async def enter(self):
        async with asyncio.timeout(60):
            return await self.spawned.get()


class Show:
    def __init__(self, folder, devices=("fake",)):
        self.clock, self.stage, self.metrics = SetClock(), Stage(self), Metrics()
        self.path = folder / "models.yaml"
        self.path.write_text(written(**MODELS))
        self.current = CurrentCatalog(self.path, clock=self.clock, log=silent())
        self.fleet = Fleet(
            devices,
            host=self.stage,
            current=self.current,
            patience=Patience(starting=1000.0, working=100.0),
            clock=self.clock,
            metrics=self.metrics,
            log=silent(),
        )

    async def ready(self):
        await self.until(lambda: self.fleet.health()[0].state is WorkerState.READY)

    def name(self, model):
        """What workers call the model, by the catalog in force."""
        return name_of(self.current.catalog.card(model))

    def state(self, model, worker=0):
        return self.fleet.models()[model][worker]

    async def edit(self, **models):
        self.path.write_text(written(**models))
        assert await self.current.reload()

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - health is asked, it does not tell
                await asyncio.sleep(0)

    def ask(self, name, **fields):
        return asyncio.create_task(self.fleet.generate(request(name, **fields), Call(name)))


@pytest.fixture
def showing(tmp_path):
    return lambda *devices: _showing(tmp_path, devices or ("fake",))


@contextlib.asynccontextmanager
async def _showing(folder, devices):
    show = Show(folder, devices)
    async with asyncio.timeout(60), show.fleet.running():
        yield show
        show.stage.refusals = 10**6
        while not show.stage.spawned.empty():
            show.stage.spawned.get_nowait().kill()
        for supervisor in show.fleet._supervisors:
            supervisor.kill()


async def ids(worker, count):
    return {(await worker.heard()).request.id for _ in range(count)}


async def test_a_request_goes_down_and_its_pictures_come_up(showing):
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


async def test_every_model_is_made_known_and_only_the_preloaded_are_loaded(showing):
    async with showing() as show:
        worker = await show.stage.enter()
        worker.say(Hello(PROTOCOL, 1, "fake", "played", 0))
        first, second = await worker.heard(), await worker.heard()
        assert (type(first), first.card.id) == (LoadModel, show.name("m"))
        assert (type(second), second.card.id) == (KnowModel, show.name("lazy"))
        assert first.card.id.startswith("m@")
        assert show.state("m").state is ModelState.LOADING
        assert show.state("lazy").state is ModelState.COLD
        worker.say(ModelLoading(show.name("m"), "unet", 0.5))
        await show.until(lambda: show.state("m").loading.fraction == 0.5)
        worker.say(ModelLoaded(show.name("m"), FACTS))
        await show.ready()
        assert show.state("m").facts == FACTS


async def test_a_cold_model_is_brought_in_by_the_worker_itself(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a", model="lazy"), show.ask("b", model="lazy"), show.ask("c")
        commands = [await worker.heard() for _ in asked]
        assert {(each.request.id, each.request.model) for each in commands} == {
            ("a", show.name("lazy")),
            ("b", show.name("lazy")),
            ("c", show.name("m")),
        }
        worker.say(ModelLoading(show.name("lazy"), "gradients", 0.2))
        worker.finish("c")
        await asked[2]  # others do not wait for the load
        assert show.state("lazy").state is ModelState.LOADING
        worker.say(ModelUnloaded(show.name("m"), evicted=True), ModelLoaded(show.name("lazy"), FACTS))
        worker.say(Memory(10, 20, 30, (show.name("lazy"),)))
        worker.finish("a")
        worker.finish("b")
        await asyncio.gather(*asked)
        assert (show.state("m").state, show.state("lazy").state) == (ModelState.COLD, ModelState.LOADED)
        health = show.fleet.health()[0]
        assert (health.models, health.cold) == (("lazy",), ("m",))
        assert health.serves("m")  # it comes back when somebody wants it
        assert (health.memory.device_bytes, health.memory.device_budget, health.memory.ram_bytes) == (10, 20, 30)
        text = show.metrics.render().decode()
        for line in (
            'aquatint_model_loads_total{model="lazy",result="ok",worker="worker-0"} 1.0',
            'aquatint_model_load_seconds_count{model="lazy",worker="worker-0"} 1.0',
            'aquatint_model_unloads_total{model="m",reason="evicted",worker="worker-0"} 1.0',
            'aquatint_models{state="cold",worker="worker-0"} 1.0',
            'aquatint_model_memory_bytes{place="device",worker="worker-0"} 10.0',
            'aquatint_model_memory_budget_bytes{worker="worker-0"} 20.0',
        ):
            assert line in text


async def test_a_model_that_fails_to_load_is_tried_again_only_when_told_to(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        name = show.name("lazy")
        for attempt in range(3):
            asked = show.ask("a", model="lazy")
            assert isinstance(await worker.heard(), Generate)
            report = ErrorReport("model_load_failed", f"no such file: {name}")
            worker.say(ModelFailed(name, report), Failed("a", report))
            with pytest.raises(ModelLoadFailed, match="'lazy' could not be loaded: no such file: lazy"):
                await asked
            with pytest.raises(ModelLoadFailed):  # at once: nothing is sent
                await show.ask("b", model="lazy")
            assert show.fleet.health()[0].failed == {"lazy": "no such file: lazy"}
            if attempt == 0:
                show.fleet.load("lazy")
                assert isinstance(await worker.heard(), LoadModel)
                worker.say(ModelFailed(name, report))
                await show.until(lambda: show.state("lazy").state is ModelState.FAILED)
                show.fleet.load("lazy")
                assert isinstance(await worker.heard(), LoadModel)
                worker.say(ModelLoaded(name, FACTS), ModelUnloaded(name, evicted=True))
                await show.until(lambda: show.state("lazy").state is ModelState.COLD)
            if attempt == 1:
                await show.edit(**MODELS, more={})
                assert (await worker.heard()).card.id == show.name("more")
        assert b'aquatint_model_loads_total{model="lazy",result="failed",worker="worker-0"} 4.0' in show.metrics.render()


async def test_a_model_that_fails_on_one_worker_is_asked_of_another(showing):
    async with showing("cuda:0", "cuda:1") as show:
        workers = [await (await show.stage.enter()).up() for _ in range(2)]
        asked = show.ask("a", model="lazy")
        name = show.name("lazy")
        report = ErrorReport("model_too_large", "needs 9 GiB, has 8 GiB")
        assert isinstance(await workers[0].heard(), Generate)
        workers[0].say(ModelFailed(name, report), Failed("a", report))
        assert isinstance(await workers[1].heard(), Generate)
        workers[1].finish("a")
        await asked
        late = show.ask("b", model="lazy")
        assert isinstance(await workers[1].heard(), Generate)
        workers[1].say(ModelFailed(name, report), Failed("b", report))
        with pytest.raises(ModelTooLarge, match="needs 9 GiB, has 8 GiB"):
            await late


async def test_a_model_that_kills_its_worker_at_loading_is_given_up(showing):
    async with showing() as show:
        name = show.name("lazy")
        asked = show.ask("a", model="lazy")
        for _ in range(2):
            worker = await (await show.stage.enter()).up()
            assert isinstance(await worker.heard(), Generate)
            worker.say(ModelLoading(name, "unet", 0.1))
            worker.die()
        with pytest.raises(RequestKillsWorker):
            await asked
        worker = await (await show.stage.enter()).up()
        with pytest.raises(ModelLoadFailed, match="died 2 times while it loaded 'lazy'"):
            await show.ask("b", model="lazy")
        assert show.state("lazy").state is ModelState.FAILED
        show.fleet.load("lazy")
        assert isinstance(await worker.heard(), LoadModel)


async def test_a_preloaded_model_that_kills_its_worker_does_not_keep_the_others_from_work(showing):
    async with showing() as show:
        await show.edit(m={}, deadly={"preload": True})
        for _ in range(2):
            worker = await show.stage.enter()
            worker.say(Hello(PROTOCOL, 1, "fake", "played", 0))
            assert {type(await worker.heard()) for _ in range(2)} == {LoadModel}
            worker.say(ModelLoaded(show.name("m"), FACTS), ModelLoading(show.name("deadly"), "unet", 0.1))
            worker.die()
        worker = await (await show.stage.enter()).up()
        await show.ready()
        assert show.state("deadly").state is ModelState.FAILED
        asked = show.ask("a")
        await worker.heard()
        worker.finish("a")
        await asked


async def test_a_request_goes_where_its_model_will_be_soonest(showing):
    async with showing("cuda:0", "cuda:1") as show:
        workers = [await (await show.stage.enter()).up() for _ in range(2)]
        name = show.name("lazy")
        workers[1].say(ModelLoaded(name, msgspec.structs.replace(FACTS, load_seconds=3.0)))
        await show.until(lambda: show.state("lazy", 1).state is ModelState.LOADED)
        hers = [show.ask(f"a{number}", model="lazy") for number in range(3)]
        assert await ids(workers[1], 3) == {"a0", "a1", "a2"}  # loading elsewhere takes longer than so short a queue
        big = show.ask("big", steps=10_000_000)  # 320 s at the pace that is assumed
        assert await ids(workers[0], 1) == {"big"}
        more = show.ask("b", model="lazy")
        assert await ids(workers[1], 1) == {"b"}
        huge = show.ask("huge", model="lazy", steps=30_000_000)
        assert await ids(workers[1], 1) == {"huge"}
        rest = show.ask("rest", model="lazy")
        assert await ids(workers[0], 1) == {"rest"}  # 960 s of queue there, 320 s and a load of 3 s here
        for task in (*hers, big, more, huge, rest):
            task.cancel()


async def test_a_changed_card_is_loaded_beside_the_old_one_which_finishes_its_work(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        old = show.name("m")
        before = show.ask("a")
        assert (await worker.heard()).request.model == old
        await show.edit(m={"preload": True, "dtype": "float16"}, lazy={})
        new = show.name("m")
        assert new != old
        command = await worker.heard()
        assert (type(command), command.card.id) == (LoadModel, new)
        after = show.ask("b")
        assert (await worker.heard()).request.model == new
        assert show.fleet.health()[0].retiring == ("m",)
        worker.say(ModelLoaded(new, FACTS))
        worker.finish("a")
        await before
        assert await worker.heard() == UnloadModel(old)
        worker.say(ModelUnloaded(old, evicted=False))
        worker.finish("b")
        await after
        assert show.fleet.health()[0].retiring == ()
        assert show.fleet.health()[0].models == ("m",)


async def test_a_removed_model_leaves_after_its_last_request_and_a_new_one_arrives(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a", model="lazy")
        name = show.name("lazy")
        await worker.heard()
        worker.say(ModelLoaded(name, FACTS))
        await show.until(lambda: show.state("lazy").state is ModelState.LOADED)
        await show.edit(m={}, fresh={})
        command = await worker.heard()
        assert (type(command), command.card.id) == (KnowModel, show.name("fresh"))
        with pytest.raises(UnknownModel):
            await show.ask("b", model="lazy")
        worker.finish("a")
        assert await worker.heard() == UnloadModel(name)
        await asked


async def test_an_accepted_request_keeps_a_card_that_is_gone_even_on_a_worker_that_never_knew_it(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        card = show.current.catalog.card("lazy")
        await show.edit(m={})
        asked = asyncio.create_task(show.fleet.generate(request("a", model="lazy"), Call("a", cards=(card,))))
        worker_commands = [await worker.heard() for _ in range(2)]
        assert [type(each) for each in worker_commands] == [KnowModel, Generate]
        worker.say(ModelLoaded(name_of(card), FACTS))
        worker.die()
        worker = await (await show.stage.enter()).up()
        assert [type(await worker.heard()) for _ in range(2)] == [KnowModel, Generate]
        worker.say(ModelLoaded(name_of(card), FACTS))
        worker.finish("a")
        assert (await asked).model == "lazy"
        assert await worker.heard() == UnloadModel(name_of(card))


async def test_limits_and_defaults_change_without_a_load(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        await show.ready()
        await show.edit(m={"preload": True, "limits": {"max_rows": 3}, "defaults": {"steps": 7}}, lazy={})
        command = await worker.heard()
        assert (type(command), command.card.id, command.card.limits.max_rows) == (KnowModel, show.name("m"), 3)
        assert show.state("m").state is ModelState.LOADED


async def test_an_edit_taken_back_keeps_the_model_that_is_still_there(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        old = show.name("m")
        asked = show.ask("a")
        await worker.heard()
        await show.edit(m={"preload": True, "dtype": "float16"}, lazy={})
        new = (await worker.heard()).card.id
        worker.say(ModelLoaded(new, FACTS))
        await show.until(lambda: show.state("m").state is ModelState.LOADED)
        await show.edit(**MODELS)
        assert await worker.heard() == UnloadModel(new)
        worker.finish("a")
        await asked
        again = show.ask("b")
        assert (await worker.heard()).request.model == old
        worker.finish("b")
        await again


async def test_a_model_newly_preloaded_is_loaded_at_once(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        await show.edit(m={"preload": True}, lazy={"preload": True})
        command = await worker.heard()
        assert (type(command), command.card.id) == (LoadModel, show.name("lazy"))


async def test_told_to_unload_it_waits_for_what_is_in_flight_and_holds_what_comes_later(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        first = show.ask("a")
        await worker.heard()
        show.fleet.unload("m")
        show.fleet.unload("m")
        second = show.ask("b")
        worker.finish("a")
        assert await worker.heard() == UnloadModel(show.name("m"))
        assert (await worker.heard()).request.id == "b"  # it brings the model back
        worker.say(ModelUnloaded(show.name("m"), evicted=False), ModelLoaded(show.name("m"), FACTS))
        worker.finish("b")
        await asyncio.gather(first, second)
        assert b'aquatint_model_unloads_total{model="m",reason="told",worker="worker-0"} 1.0' in show.metrics.render()


async def test_a_model_loaded_by_hand_is_loaded_again_after_a_death_until_it_is_unloaded(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        show.fleet.load("lazy")
        show.fleet.load("lazy")
        assert (await worker.heard()).card.id == show.name("lazy")
        worker.say(ModelLoaded(show.name("lazy"), FACTS))
        await show.until(lambda: show.state("lazy").state is ModelState.LOADED)
        worker.die()
        worker = await (await show.stage.enter()).up()
        await show.until(lambda: show.state("lazy").state is ModelState.LOADED)
        show.fleet.unload("lazy")
        assert await worker.heard() == UnloadModel(show.name("lazy"))
        worker.die()
        await (await show.stage.enter()).up()
        await show.ready()
        assert show.state("lazy").state is ModelState.COLD


async def test_a_refiner_is_made_known_with_the_request_and_waits_with_it(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a", refiner=Refiner("lazy"))
        command = await worker.heard()
        assert (command.request.model, command.request.refiner.model) == (show.name("m"), show.name("lazy"))
        await show.edit(m={"preload": True})
        worker.say(ModelLoaded(show.name("m"), FACTS))
        worker.finish("a")
        assert (await asked).model == "m"


async def test_unknown_names_are_refused(showing):
    async with showing() as show:
        for act in (show.fleet.load, show.fleet.unload):
            with pytest.raises(UnknownModel):
                act("nothing")
            with pytest.raises(InvalidRequest, match="there are worker-0"):
                act("m", "worker-9")


async def test_cancelling_the_task_cancels_the_work(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        asked.cancel()
        assert await worker.heard() == Cancel("a")
        worker.say(Failed("a", Cancelled("told so").report()))
        with pytest.raises(asyncio.CancelledError):
            await asked


async def test_an_error_of_the_engine_comes_up_as_itself(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        worker.say(Failed("a", ErrorReport("out_of_memory", "8x8 does not fit")))
        with pytest.raises(EngineFailure, match="8x8") as caught:
            await asked
        assert caught.value.code == "out_of_memory"


async def test_completed_without_pictures_is_an_error_not_a_hang(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        asked = show.ask("a")
        await worker.heard()
        worker.say(Completed("a", STATS))
        with pytest.raises(EngineFailure, match="without all of its images"):
            await asked


async def test_after_a_death_suspects_run_one_by_one_and_only_the_culprit_fails(showing):
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


async def test_a_suspect_that_gets_further_than_before_is_cleared_and_the_next_joins_it(showing):
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


async def test_a_request_at_too_many_deaths_fails_even_if_it_always_got_further(showing):
    async with showing() as show:
        asked = show.ask("a", steps=20)
        for life in range(1, 5):
            worker = await (await show.stage.enter()).up()
            await worker.heard()
            worker.say(Progress("a", 0, life, 20))
            worker.die()
        with pytest.raises(RequestKillsWorker):
            await asked


async def test_a_second_image_of_the_same_seed_is_no_harm_after_a_rerun(showing):
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


async def test_a_request_cancelled_before_the_rerun_is_not_run_again(showing):
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


async def test_a_leaving_worker_hands_back_what_it_refuses(showing):
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
async def test_a_process_that_is_no_worker_is_replaced(nonsense, showing):
    async with showing() as show:
        worker = await show.stage.enter()
        worker.own.send(nonsense)
        assert await worker.wait() == -9
        await (await show.stage.enter()).up()
        assert "unreadable" in show.fleet.health()[0].reason


async def test_an_announced_frame_over_the_limit_ends_the_talk(showing):
    async with showing() as show:
        worker = await show.stage.enter()
        worker.own._sock.send((MAX_FRAME + 1).to_bytes(4, "big"))
        await worker.wait()
        await (await show.stage.enter()).up()
        assert "over the limit" in show.fleet.health()[0].reason


async def test_another_protocol_is_refused(showing):
    async with showing() as show:
        worker = await show.stage.enter()
        worker.say(Hello(PROTOCOL + 1, 1, "fake", "newer", 0))
        await worker.wait()
        await (await show.stage.enter()).up()
        assert "protocol" in show.fleet.health()[0].reason


async def test_without_any_worker_requests_fail_instead_of_waiting_for_ever(showing):
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


async def test_a_silent_worker_is_killed(showing):
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


async def test_a_worker_that_loads_may_be_silent_unless_something_else_should_go_on(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        cold = show.ask("cold", model="lazy")
        await worker.heard()
        worker.say(ModelLoading(show.name("lazy"), "unet", 0.1))
        await show.until(lambda: show.state("lazy").state is ModelState.LOADING)
        show.clock.advance(500)
        warm = show.ask("warm")
        assert (await worker.heard()).request.id == "warm"  # it was not killed
        show.clock.advance(101)
        assert await worker.wait() == -9
        cold.cancel()
        warm.cancel()


async def test_an_idle_worker_may_be_silent(showing):
    async with showing() as show:
        worker = await (await show.stage.enter()).up()
        show.clock.advance(10_000)
        asked = show.ask("a")
        await worker.heard()
        worker.finish("a")
        await asked


async def test_a_deadline_that_passed_while_waiting(showing):
    async with showing() as show:
        asked = show.ask("a", deadline=show.clock.time() + 5)
        worker = await show.stage.enter()
        show.clock.advance(6)
        await worker.up()
        with pytest.raises(DeadlineExceeded):
            await asked


async def test_work_is_spread_and_moves_when_a_worker_dies(showing):
    async with showing("cuda:0", "cuda:1") as show:
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


async def test_the_estimate_follows_backlog_and_pace(showing):
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


async def test_shutting_down_refuses_and_drains(tmp_path):
    show = Show(tmp_path)
    async with asyncio.timeout(60):
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
