"""Real LoRA files through the whole engine: first use, eviction, changed, wrong, broken and missing files; compiled networks."""

import copy
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from driving import Recording
from loras import ATTENTION, TEXT, changes, kohya_layout, peft_layout, save, use
from test_alone import relative, request

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Failed, Phase
from pipelines.contract.request import Sampling
from pipelines.engine.adapters import Adapters
from pipelines.engine.engine import Engine
from pipelines.engine.loader import InlineLoader
from pipelines.families.compiling import compile_blocks, compiled
from pipelines.families.sd import StableDiffusion


@pytest.fixture(scope="module")
def tiny():
    from tiny import Tiny

    return Tiny()


class Device:
    """An engine over a tiny model, with a budget for adapters."""

    def __init__(self, family, budget=None):
        self.runner = Recording(torch.device("cpu"))
        self.runner.add("tiny", family)
        self.engine = Engine(self.runner, adapters=Adapters(self.runner, InlineLoader(), budget))
        self.engine.adopt(ModelCard(id="tiny", source="", family=Family.SD))
        self.events = []
        self.asked = 0

    def ask(self, *loras, steps=3, **fields):
        self.asked += 1
        sampling = Sampling(sampler="euler", steps=steps, guidance_scale=1.0)
        asked = request("txt2img", "euler", guided=False, id=f"r{self.asked}", loras=loras, sampling=sampling, **fields)
        self.events += self.engine.generate(asked)
        return asked.id

    def step(self, count=1):
        for _ in range(count):
            self.events += self.engine.step()

    def finish(self):
        while self.engine.busy:
            self.step()

    def made(self, *loras, **fields):
        """The latents of one request, alone."""
        id_ = self.ask(*loras, **fields)
        self.finish()
        assert self.ended()[id_] == "completed", self.messages()
        return self.runner.final[id_, 0]

    @property
    def here(self):
        return {key[1] for key in self.runner._wardrobe._adapters}

    def ended(self):
        ended = (event for event in self.events if isinstance(event, (Completed, Failed)))
        return {event.id: getattr(getattr(event, "error", None), "code", "completed") for event in ended}

    def messages(self):
        return {event.id: event.error.message for event in self.events if isinstance(event, Failed)}


def file(folder, tiny, name, seed, *, text=True):
    parts = {"unet": changes(tiny.unet, ATTENTION, seed=seed)}
    if text:
        parts["te"] = changes(tiny.text_encoder, TEXT, seed=seed)
    return save(folder / f"{name}.safetensors", kohya_layout(parts))


def test_the_budget_is_kept_while_rows_hold_theirs(tmp_path, tiny):
    paths = [file(tmp_path, tiny, name, seed) for seed, name in enumerate("abc")]
    device = Device(tiny.family)
    alone = [device.made(use(path, "sd")) for path in paths]
    one = next(iter(device.runner._wardrobe._adapters.values())).bytes
    device = Device(tiny.family, budget=2 * one)
    long = device.ask(use(paths[0], "sd"), steps=12)
    device.step(3)
    others = [device.ask(use(path, "sd")) for path in (paths[1], paths[2])]
    while device.engine.busy:
        device.step()
        assert sum(adapter.bytes for adapter in device.runner._wardrobe._adapters.values()) <= 2 * one
        if long not in device.ended():
            assert "a" in device.here
    assert set(device.ended().values()) == {"completed"}
    for id_, wanted in zip(others, alone[1:], strict=True):
        assert relative(device.runner.final[id_, 0], wanted) < 1e-5


def test_a_file_that_changes_is_opened_again_and_rows_under_way_keep_theirs(tmp_path, tiny):
    path = file(tmp_path, tiny, "a", 1)
    device = Device(tiny.family)
    first = device.made(use(path, "sd"), steps=6)
    running = device.ask(use(path, "sd"), steps=6)
    device.step(3)
    file(tmp_path, tiny, "a", 2)
    os.utime(path, ns=(1, 1))
    second = device.made(use(path, "sd"), steps=6)
    assert relative(device.runner.final[running, 0], first) < 1e-5
    assert relative(second, first) > 0.01
    fresh = Device(tiny.family).made(use(path, "sd"), steps=6)
    assert relative(second, fresh) < 1e-5, "embeddings of the file before must not be taken for these"


def test_a_file_that_changes_while_its_row_waits(tmp_path, tiny):
    path = file(tmp_path, tiny, "a", 1)
    device = Device(tiny.family)
    id_ = device.ask(use(path, "sd"))
    device.events += device.engine._turn_over()  # opened, not begun
    file(tmp_path, tiny, "a", 2)
    os.utime(path, ns=(1, 1))
    device.finish()
    assert device.ended()[id_] == "completed"


def test_an_evicted_lora_is_let_go_and_its_embeddings_do_not_hold_it(tmp_path, tiny):
    import gc
    import weakref

    paths = [file(tmp_path, tiny, name, seed) for seed, name in enumerate("ab")]
    device = Device(tiny.family)
    device.made(use(paths[0], "sd"))
    (adapter,) = device.runner._wardrobe._adapters.values()
    device = Device(tiny.family, budget=adapter.bytes)
    first = device.made(use(paths[0], "sd"))
    (adapter,) = device.runner._wardrobe._adapters.values()
    gone = weakref.ref(adapter)
    del adapter
    device.made(use(paths[1], "sd"))
    gc.collect()
    assert gone() is None
    assert torch.equal(device.made(use(paths[0], "sd")), first)


def test_wrong_broken_and_missing_files_fail_their_own_requests(tmp_path, tiny):
    from tiny_sdxl import TinyXL

    good = file(tmp_path, tiny, "good", 1)
    wrong = save(tmp_path / "wrong.safetensors", peft_layout({"unet": changes(TinyXL().unet, ATTENTION, seed=1)}))
    broken = file(tmp_path, tiny, "broken", 1)
    broken.write_bytes(broken.read_bytes()[:-4])
    device = Device(tiny.family)
    fine = device.ask(use(good, "sd"))
    failing = [device.ask(use(good, "sd"), use(path, "sd")) for path in (wrong, broken, tmp_path / "absent.safetensors")]
    other = device.ask(use(good, "sdxl"))
    device.finish()
    assert device.ended() == {
        fine: "completed",
        **dict(zip(failing, ("unsupported", "model_load_failed", "model_load_failed"), strict=True)),
        other: "unsupported",
    }
    told = device.messages()
    assert "(cross-attention width 72), this model is a UNet (cross-attention width 32)" in told[failing[0]]
    assert "cut short" in told[failing[1]]
    assert "no file" in told[failing[2]]
    # Mended, it serves the next request.
    file(tmp_path, tiny, "broken", 1)
    device.made(use(broken, "sd"))


def test_one_lora_for_many_images_is_opened_and_read_for_once(tmp_path, tiny):
    path = file(tmp_path, tiny, "a", 1)
    device = Device(tiny.family)
    device.ask(use(path, "sd"), seeds=(1, 2, 3))
    device.finish()
    assert len(device.runner._wardrobe._adapters) == 1
    ticks = [batch for batch in device.runner.batches if batch.phase is Phase.DENOISE]
    assert max(len(batch.rows) for batch in ticks) == 3


def test_loras_without_text_layers_share_the_plain_prompt(tmp_path, tiny):
    path = file(tmp_path, tiny, "a", 1, text=False)
    device = Device(tiny.family)
    device.made()
    device.made(use(path, "sd"))
    assert len(device.runner._models["tiny"].encoder.embeddings._kept) == 1


def test_a_model_loaded_anew_gets_its_lora_anew_and_is_not_kept_by_it(tmp_path, tiny):
    import gc
    import weakref

    tiny.pipeline("txt2img").save_pretrained(tmp_path / "m")
    path = file(tmp_path, tiny, "a", 1)
    runner = Recording(torch.device("cpu"))
    engine = Engine(runner)
    events = []

    def made(id_):
        nonlocal events
        few = Sampling(sampler="euler", steps=3, guidance_scale=1.0)
        asked = request("txt2img", "euler", guided=False, id=id_, loras=(use(path, "sd"),), sampling=few, model="m")
        events += engine.generate(asked)
        while engine.busy:
            events += engine.step()
        return runner.final[id_, 0]

    card = ModelCard(id="m", source=f"dir:{tmp_path / 'm'}", family=Family.SD, dtype="float32")
    events += engine.know(card)
    first = made("a")
    network = weakref.ref(runner._models["m"].family.network)
    events += engine.unload("m")
    events += engine.step()
    assert not runner._wardrobe._adapters
    gc.collect()
    assert network() is None
    second = made("b")
    assert torch.equal(first, second)


def test_compiled_blocks_step_aside_for_loras_and_come_back(tmp_path, tiny):
    path = file(tmp_path, tiny, "a", 1)
    wanted = [Device(tiny.family).made(), Device(tiny.family).made(use(path, "sd"))]
    unet = copy.deepcopy(tiny.unet)
    graphs = []

    def backend(graph, _inputs):
        def counted(*given):
            graphs.append(graph)
            return graph.forward(*given)

        return counted

    torch._dynamo.reset()
    compile_blocks(unet, backend=backend)
    assert len(compiled(unet)) == len([module for module in unet.modules() if type(module).__name__ in unet._repeated_blocks])
    device = Device(StableDiffusion(unet, tiny.vae, tiny.text_encoder, tiny.tokenizer, tiny.scheduler.config))
    # With a LoRA first: a block that is compiled with a hook in it would keep it.
    for loras in ((use(path, "sd"),), (), (use(path, "sd"),), ()):
        before = len(graphs)
        found = device.made(*loras)
        assert relative(found, wanted[bool(loras)]) < 1e-5
        assert (len(graphs) > before) == (not loras)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_the_network_s_own_precision(tmp_path, tiny, dtype):
    path = file(tmp_path, tiny, "a", 1)
    dora = save(tmp_path / "d.safetensors", peft_layout({"unet": changes(tiny.unet, ATTENTION, seed=4, dora=True)}))
    parts = [copy.deepcopy(module).to(dtype) for module in (tiny.unet, tiny.vae, tiny.text_encoder)]
    parts[2].__dict__["text_model"] = parts[2]
    device = Device(StableDiffusion(*parts, tiny.tokenizer, tiny.scheduler.config))
    whole = Device(tiny.family)
    ids = [device.ask(), device.ask(use(path, "sd"), seeds=(3,)), device.ask(use(path, "sd", 0.5), use(dora, "sd"), seeds=(4,))]
    device.finish()
    assert set(device.ended().values()) == {"completed"}, device.messages()
    wanted = whole.made(use(path, "sd", 0.5), use(dora, "sd"), seeds=(4,))
    assert relative(device.runner.final[ids[2], 0].float(), wanted) < (0.1 if dtype is torch.bfloat16 else 0.02)
    worn = device.runner._wardrobe._adapters.values()
    assert all(layer.down.dtype is dtype for adapter in worn for _, layer in adapter.network)
