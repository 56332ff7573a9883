"""Control networks in the engine: what is refused and when, and that ticks go on while one is opened."""

import sys
import threading
from pathlib import Path

import pytest
import torch

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import AdapterMemory, Completed, Failed, ImageDone, Phase
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.adapters import Adapters
from pipelines.engine.engine import Engine
from pipelines.engine.loader import ThreadLoader
from pipelines.engine.torch_runner import TorchRunner
from pipelines.families.compiling import compile_blocks

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny

    return Tiny()


@pytest.fixture(scope="module")
def xl():
    from tiny_sdxl import TinyXL

    return TinyXL()


@pytest.fixture(scope="module")
def control(tiny, tmp_path_factory):
    from tiny_controls import controlnet

    return controlnet(tmp_path_factory.mktemp("controls") / "a", tiny.unet, Family.SD, seed=1)


@pytest.fixture(scope="module")
def union(xl, tmp_path_factory):
    from tiny_controls import union

    return union(tmp_path_factory.mktemp("controls") / "union", xl.unet, seed=2)


def request(name, controls=(), **changes):
    sampling = Sampling(sampler="euler", steps=3, guidance_scale=3.0)
    fields = {"model": "m", "prompt": "x", "width": 64, "height": 64, "seeds": (1,), "sampling": sampling}
    return ImageRequest(**({"id": name} | fields | {"controls": tuple(controls)} | changes))


def engine_of(tiny, runner=None, adapters=None):
    runner = runner or TorchRunner(torch.device("cpu"))
    runner.add("m", tiny.family)
    engine = Engine(runner, adapters=adapters)
    engine.adopt(ModelCard(id="m", source="", family=tiny.family.facts.family))
    return engine


def finished(engine):
    events = []
    while engine.busy:
        events += engine.step()
    return events


def failure(tiny, asked):
    """The error of a request that is taken on, and fails once its network is there."""
    engine = engine_of(tiny)
    assert engine.generate(asked) == []
    (failed,) = [event for event in finished(engine) if isinstance(event, Failed)]
    assert failed.error.param == "controls"
    return failed.error


def test_what_the_cards_rule_out_is_refused_at_once(tiny, control, union):
    engine = engine_of(tiny)
    for use, code in ((control.use(weight=3.0), "invalid_request"), (union.use(mode="pose"), "unsupported")):
        (event,) = engine.generate(request("r", [use]))
        assert isinstance(event, Failed)
        assert (event.error.code, event.error.param) == (code, "controls")
    assert not engine.busy


def test_a_mode_that_the_network_does_not_have(xl, union):
    import msgspec

    card = msgspec.structs.replace(union.card, modes={"segments": 7})
    error = failure(xl, request("r", [union.use(card=card, mode="segments")]))
    assert error.code == "invalid_request"
    assert "modes 0 to 3" in error.message


def test_a_size_that_an_adapter_cannot_be_cut_into(xl, tmp_path):
    from tiny_controls import t2i_adapter

    config = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 16, "adapter_type": "full_adapter_xl"}
    adapter = t2i_adapter(tmp_path / "adapter", Family.SDXL, 1, **config)
    error = failure(xl, request("r", [adapter.use()], width=72))
    assert error.code == "invalid_request"
    assert "multiples of 16, not 72x64" in error.message


def test_an_adapter_whose_features_lie_elsewhere(xl, tmp_path):
    from tiny_controls import t2i_adapter

    adapter = t2i_adapter(tmp_path / "adapter", Family.SDXL, 1, channels=[16, 32], num_res_blocks=1)
    error = failure(xl, request("r", [adapter.use()]))
    assert error.code == "unsupported"
    assert "(16, 8, 8)" in error.message
    assert "(16, 4, 4)" in error.message


def test_a_network_opened_for_one_model_is_held_against_another_of_its_family(tiny, control):
    """As SD 1's and SD 2's, which share what is opened: the second model's rows must not reach it."""
    from tiny import Tiny

    other = Tiny(seed=5)
    other.unet.register_to_config(cross_attention_dim=48)
    runner = TorchRunner(torch.device("cpu"))
    runner.add("m2", other.family)
    engine = engine_of(tiny, runner)
    engine.adopt(ModelCard(id="m2", source="", family=Family.SD))
    engine.generate(request("fits", [control.use()]))
    engine.generate(request("not", [control.use()], model="m2"))
    events = finished(engine)
    assert [event.id for event in events if isinstance(event, Completed)] == ["fits"]
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.id, failed.error.code) == ("not", "unsupported")
    assert "32" in failed.error.message
    assert "48" in failed.error.message


def test_a_refiner_has_no_control_networks(tmp_path):
    from by_diffusers import picture_of
    from tiny_controls import controlnet
    from tiny_sdxl import TinyXL

    from pipelines.contract.request import Init
    from pipelines.families.pictures import to_picture

    refiner = TinyXL(refiner=True)
    made = controlnet(tmp_path / "a", refiner.unet, Family.SDXL, seed=1)
    error = failure(refiner, request("r", [made.use()], init=Init(to_picture(picture_of(64, 64, 1)))))
    assert error.code == "unsupported"
    assert "refiner" in error.message


class Gated(TorchRunner):
    """Opens no adapter before it is told to."""

    def __init__(self, device):
        super().__init__(device)
        self.gate, self.began = threading.Event(), threading.Event()

    def open_adapter(self, model, card):
        work = super().open_adapter(model, card)

        def gated(progress):
            self.began.set()
            assert self.gate.wait(60)
            return work(progress)

        return gated


def test_ticks_go_on_while_a_network_is_opened(tiny, control):
    runner, loader = Gated(torch.device("cpu")), ThreadLoader()
    engine = engine_of(tiny, runner, Adapters(runner, loader))
    engine.generate(request("controlled", [control.use()]))
    engine.generate(request("plain"))
    events = []
    while not any(isinstance(event, Completed) for event in events):
        events += engine.step()
    assert runner.began.wait(60)
    assert [event.id for event in events if isinstance(event, Completed)] == ["plain"]
    assert not [event for event in events if isinstance(event, AdapterMemory)]
    runner.gate.set()
    while not any(isinstance(event, Completed) and event.id == "controlled" for event in events):
        events += engine.step()
    (memory,) = [event for event in events if isinstance(event, AdapterMemory)]
    assert memory.bytes > 0
    pictures = {event.id: event.picture.data for event in events if isinstance(event, ImageDone)}
    alone = engine_of(tiny)
    alone.generate(request("controlled", [control.use()]))
    again = [event.picture.data for event in finished(alone) if isinstance(event, ImageDone)]
    assert again == [pictures["controlled"]]
    assert pictures["plain"] != pictures["controlled"]


def test_a_network_is_opened_once_and_kept(tiny, control):
    engine = engine_of(tiny)
    for name in ("one", "two"):
        engine.generate(request(name, [control.use()]))
    finished(engine)
    engine.generate(request("three", [control.use(2)]))
    assert not [event for event in finished(engine) if isinstance(event, AdapterMemory)]


def test_compiled_blocks_take_residuals(control):
    from tiny import Tiny

    made = []
    for compiled in (False, True):
        tiny = Tiny()
        if compiled:
            compile_blocks(tiny.unet, backend="eager")
        engine = engine_of(tiny)
        engine.generate(request("plain"))
        engine.generate(request("controlled", [control.use()]))
        events = finished(engine)
        assert not [event for event in events if isinstance(event, Failed)]
        made.append({event.id: event.picture.data for event in events if isinstance(event, ImageDone)})
    assert made[0] == made[1]
    assert made[0]["plain"] != made[0]["controlled"]


def test_ticks_are_counted_as_before(tiny, control):
    engine = engine_of(tiny)
    engine.generate(request("r", [control.use()]))
    ticks = [event for event in finished(engine) if getattr(event, "phase", None) is Phase.DENOISE]
    assert [tick.evaluations for tick in ticks] == [2, 2, 2]
