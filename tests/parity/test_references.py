"""IP-Adapters: each row with its own pictures, equal to diffusers' ``load_ip_adapter`` run alone."""

import numpy as np
import pytest
import torch
from by_diffusers import picture_of, reference
from driving import Recording, run
from sdxl_by_diffusers import reference as reference_xl
from test_alone import RELATIVE, relative, request
from tiny import Tiny
from tiny_references import VARIANTS, Adapters
from tiny_sdxl import TinyXL

from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.contract.control import ReferenceUse
from pipelines.contract.family import Family
from pipelines.contract.messages import Phase
from pipelines.contract.request import Refiner, Sampling
from pipelines.engine.scheduler import Policy
from pipelines.families.compiling import compile_blocks
from pipelines.families.pictures import to_picture

RED, WIDE, TALL = (to_picture(picture_of(*size, seed)) for size, seed in (((40, 40), 1), ((90, 50), 2), ((33, 70), 3)))


@pytest.fixture(scope="module")
def sd(tiny, tmp_path_factory):
    return Adapters(tmp_path_factory.mktemp("sd"), tiny, Family.SD)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return Adapters(tmp_path_factory.mktemp("xl"), TinyXL(), Family.SDXL)


def wanted(adapters, asked, image=0, tiny=None):
    by = reference_xl if adapters.family is Family.SDXL else reference
    return by(adapters.by_diffusers(asked, tiny), asked, image)


def check(adapters, asked, result=None):
    result = result or run({"tiny": adapters.tiny.family}, [asked])
    assert not result.failed
    latents, pixels = wanted(adapters, asked)
    assert relative(result.latents[asked.id, 0], latents) < RELATIVE, asked.id
    assert np.abs(result.pixels[asked.id, 0].astype(int) - pixels.astype(int)).max() <= 1, asked.id
    return result


def uses(adapters, *told, **changes):
    return tuple(ReferenceUse(adapters.card(variant), pictures, weight, **changes) for variant, pictures, weight in told)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_one_picture(request_of, family, variant):
    adapters, ask = request_of(family)
    asked = ask("txt2img", "euler", references=uses(adapters, (variant, (RED,), 0.8)))
    result = check(adapters, asked)
    plain = ask("txt2img", "euler")
    without = run({"tiny": adapters.tiny.family}, [plain])
    assert relative(result.latents[asked.id, 0], without.latents[plain.id, 0]) > 0.01, "it shows no effect"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_several_pictures_of_one_use(request_of, family, variant):
    adapters, ask = request_of(family)
    check(adapters, ask("txt2img", "dpmpp_2m", references=uses(adapters, (variant, (RED, WIDE, TALL), 0.7))))


@pytest.mark.parametrize(
    "told",
    [
        [("plain", (RED,), 0.9), ("plus", (TALL,), 0.35)],
        [("plain", (RED,), 0.4), ("plain", (WIDE,), 0.8)],
        [("full", (WIDE, TALL), 0.5), ("plain", (RED,), 1.4), ("plus", (RED, TALL), 0.2)],
        [("plus", (RED,), 0.0), ("plain", (TALL,), 2.0)],
    ],
    ids=["two", "one twice", "three", "silent"],
)
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_several_uses_add_up(request_of, family, told):
    adapters, ask = request_of(family)
    check(adapters, ask("txt2img", "euler", references=uses(adapters, *told)))


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m_sde", "ddim", "heun", "unipc", "lcm"])
def test_samplers(request_of, sampler):
    adapters, ask = request_of("sd")
    check(adapters, ask("txt2img", sampler, references=uses(adapters, ("plus", (WIDE,), 0.6))))


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_kinds(request_of, family, kind, guided):
    adapters, ask = request_of(family)
    check(adapters, ask(kind, "euler", guided=guided, references=uses(adapters, ("plain", (WIDE,), 0.6))))


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_with_clip_skip(request_of, family):
    adapters, ask = request_of(family)
    check(adapters, ask("txt2img", "euler", clip_skip=1, references=uses(adapters, ("plain", (RED,), 0.8))))


def test_a_refiner_goes_on_without_them(request_of, xl):
    _, ask = request_of("xl")
    refiner = TinyXL(refiner=True, seed=2, vae=xl.tiny.vae)
    told = uses(xl, ("plus", (RED,), 0.8), ("plain", (TALL,), 0.5))
    asked = ask("txt2img", "euler", references=told, refiner=Refiner("refiner", 0.6))
    result = run({"tiny": xl.tiny.family, "refiner": refiner.family}, [asked])
    latents, _ = reference_xl(xl.by_diffusers(asked), asked, refiner=refiner)
    assert relative(result.latents[asked.id, 0], latents) < RELATIVE


@pytest.mark.parametrize(("start", "end"), [(0.3, 1.0), (0.0, 0.55), (0.25, 0.75)])
@pytest.mark.parametrize(("kind", "sampler"), [("txt2img", "euler"), ("img2img", "dpmpp_2m")])
def test_a_share_of_the_steps(request_of, kind, sampler, start, end):
    adapters, ask = request_of("sd")
    timed = uses(adapters, ("plain", (RED,), 1.0), start=start, end=end)
    whole = uses(adapters, ("plus", (TALL,), 0.3))
    check(adapters, ask(kind, sampler, references=timed + whole))


def test_several_images_read_each_picture_once(request_of):
    adapters, ask = request_of("sd")
    asked = ask("txt2img", "euler_a", seeds=(3, 4, 5), references=uses(adapters, ("plus", (RED, WIDE), 0.7)))
    result = run({"tiny": adapters.tiny.family}, [asked], recording=Counting)
    for image in range(3):
        assert relative(result.latents[asked.id, image], wanted(adapters, asked, image)[0]) < RELATIVE
    assert result.runner.seen["image encoder"] == [1, 1, 1], "two pictures, and no picture for the negative prompt"


@pytest.mark.parametrize("policy", [Policy(), Policy(buckets=(1, 2, 4, 6, 8, 12, 16, 24))], ids=["dense", "buckets"])
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_in_company(request_of, family, policy):
    adapters, ask = request_of(family)
    plain, plus, full = ("plain", (RED,), 0.8), ("plus", (WIDE, TALL), 0.5), ("full", (TALL,), 1.1)
    requests = [
        ask("txt2img", "euler", id="nothing", seeds=(1,)),
        ask("txt2img", "ddim", id="nothing unguided", seeds=(2,), guided=False),
        ask("img2img", "euler", id="nothing img2img", seeds=(3,)),
        ask("txt2img", "euler", id="a", seeds=(4,), references=uses(adapters, plain)),
        ask("txt2img", "dpmpp_2m", id="a more", seeds=(5,), references=uses(adapters, ("plain", (WIDE, TALL), 0.3))),
        ask("txt2img", "euler_a", id="b", seeds=(6,), references=uses(adapters, ("plus", (TALL, RED), 1.2))),
        ask("txt2img", "unipc", id="a b", seeds=(7,), references=uses(adapters, plain, plus)),
        ask("txt2img", "euler", id="b a", seeds=(8,), references=uses(adapters, plus, plain), guided=False),
        ask("img2img", "dpmpp_2m", id="img2img c", seeds=(9,), references=uses(adapters, full)),
        ask("inpaint", "euler_a", id="inpaint a", seeds=(10,), references=uses(adapters, ("plain", (TALL,), 1.4))),
        ask("txt2img", "heun", id="late", seeds=(11,), references=uses(adapters, full, start=0.5)),
    ]
    join = [0, 0, 1, 0, 3, 1, 2, 0, 3, 4, 1]
    result = run({"tiny": adapters.tiny.family}, requests, join=join, policy=policy, max_rows=24)
    ticks = [batch for batch in result.batches if batch.phase is Phase.DENOISE]
    assert max(len(batch.rows) for batch in ticks) >= 10, "they never met"
    for asked in requests:
        check(adapters, asked, result)


def test_rows_without_are_as_if_there_were_none(request_of):
    adapters, ask = request_of("sd")
    plain = [ask("txt2img", "euler", id=f"p{seed}", seeds=(seed,)) for seed in range(3)]
    others = [ask("txt2img", "euler", id=f"o{seed}", seeds=(seed,)) for seed in range(3, 6)]
    looking = [
        ask("txt2img", "euler", id=asked.id, seeds=asked.seeds, references=uses(adapters, ("full", (RED,), 1.5)))
        for asked in others
    ]
    without = run({"tiny": adapters.tiny.family}, [*plain, *others])
    result = run({"tiny": adapters.tiny.family}, [*plain, *looking])
    assert [len(batch.rows) for batch in result.batches if batch.phase is Phase.DENOISE] == [6] * 8
    for asked in plain:
        assert torch.equal(result.latents[asked.id, 0], without.latents[asked.id, 0])
    for asked in others:
        assert relative(result.latents[asked.id, 0], without.latents[asked.id, 0]) > 0.01


def test_only_rows_that_use_one_are_projected(request_of):
    adapters, ask = request_of("sd")
    plain, timed = uses(adapters, ("plain", (RED,), 1.0)), uses(adapters, ("plus", (RED, TALL), 0.5), end=0.5)
    requests = [
        *(ask("txt2img", "euler", id=f"p{seed}", seeds=(seed,)) for seed in range(4)),
        ask("txt2img", "euler", id="guided", references=plain),
        ask("txt2img", "euler", id="unguided", references=plain + timed, guided=False),
    ]
    result = run({"tiny": adapters.tiny.family}, requests, recording=Counting)
    sizes = [batch.size for batch in result.batches if batch.phase is Phase.DENOISE]
    assert max(sizes) == 11, "they never met"
    assert sum(sizes) == 8 * 11
    assert max(result.runner.seen["plain"]) == 3
    assert sum(result.runner.seen["plain"]) == 8 * 3
    assert result.runner.seen["plus"] == [1] * 4


@pytest.mark.parametrize("most", [1, 3])
def test_forwards_of_a_few_rows(request_of, most):
    adapters, ask = request_of("sd")
    requests = [
        ask("txt2img", "euler", id=name, seeds=(seed,), references=uses(adapters, *told))
        for seed, (name, told) in enumerate([("p", []), ("a", [("plain", (RED,), 1.0)]), ("b", [("plus", (WIDE,), 0.5)])])
    ]
    result = run({"tiny": adapters.tiny.family}, requests, max_rows=most)
    for asked in requests:
        check(adapters, asked, result)


def test_models_of_one_family_share_an_adapter(request_of):
    adapters, ask = request_of("sd")
    other = Tiny(seed=9)
    told = uses(adapters, ("plus", (RED,), 0.8))
    requests = [
        ask("txt2img", "euler", id="one", references=told),
        ask("txt2img", "euler", id="two", model="other", references=told),
    ]
    result = run({"tiny": adapters.tiny.family, "other": other.family}, requests, recording=Counting)
    assert result.runner.installed == ["plus"]
    check(adapters, requests[0], result)
    assert relative(result.latents["two", 0], wanted(adapters, requests[1], tiny=other)[0]) < RELATIVE


def test_adapters_that_name_one_image_encoder_share_it(request_of):
    adapters, ask = request_of("sd")
    told = uses(adapters, ("plus", (RED,), 0.8), ("plain", (RED,), 0.8))
    result = run({"tiny": adapters.tiny.family}, [ask("txt2img", "euler", references=told)], recording=Counting)
    first, second = result.runner._wardrobe._adapters.values()
    assert first.encoder is second.encoder


def test_the_network_is_left_as_it_was(request_of):
    adapters, ask = request_of("sd")
    unet = adapters.tiny.unet
    before, state = dict(unet.attn_processors), list(unet.state_dict())
    run({"tiny": adapters.tiny.family}, [ask("txt2img", "euler", references=uses(adapters, ("full", (RED,), 1.0)))])
    assert unet.attn_processors == before
    assert list(unet.state_dict()) == state
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    assert unet.encoder_hid_proj is None


def test_what_changes_queries_and_outputs_acts_as_in_diffusers(request_of, tmp_path):
    """A LoRA is a hook behind a linear layer: here one that was there before, on the layers that we listen at."""
    _, ask = request_of("sd")
    tiny = Tiny(seed=6)
    adapters = Adapters(tmp_path, tiny, Family.SD)
    made = torch.Generator().manual_seed(3)
    for name, module in tiny.unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")):
            low = (torch.randn(module.in_features, module.out_features, generator=made) * 0.1).to(tiny.device)
            kept = []

            def look(_module, inputs, low=low, kept=kept):
                kept.append(inputs[0] @ low)

            def add(_module, _inputs, output, kept=kept):
                return output + kept.pop()

            module.register_forward_pre_hook(look)
            module.register_forward_hook(add)
    check(adapters, ask("txt2img", "euler", references=uses(adapters, ("plain", (RED,), 0.8))))


def test_compiled_blocks_give_way_where_pictures_are_attended_to(request_of, tmp_path):
    _, ask = request_of("sd")
    tiny = Tiny(seed=7)
    adapters = Adapters(tmp_path, tiny, Family.SD)
    plain, looking = ask("txt2img", "euler", id="p"), ask("txt2img", "euler", references=uses(adapters, ("plus", (RED,), 0.8)))
    latents, _ = wanted(adapters, looking)
    alone, _ = reference(tiny, plain)
    calls = []

    def backend(graph, inputs):
        def call(*args):
            calls.append(1)
            return graph.forward(*args)

        return call

    compile_blocks(tiny.unet, backend=backend)
    try:
        for requests, compiled in (([plain], True), ([looking], False), ([plain, looking], False), ([plain], True)):
            calls.clear()
            result = run({"tiny": tiny.family}, requests)
            assert bool(calls) is compiled
            for asked in requests:
                assert relative(result.latents[asked.id, 0], alone if asked is plain else latents) < RELATIVE
    finally:
        torch._dynamo.reset()


class Counting(Recording):
    """Counts the rows that the first layer of each IP-Adapter projects, forward by forward, and pictures that are looked at."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.seen: dict[str, list[int]] = {"image encoder": []}
        self.installed: list[str] = []

    def install_adapter(self, key, adapter):
        assert isinstance(adapter, ImagePrompt)
        self.installed.append(adapter.name)
        self._count(adapter.name, adapter.layers[0])
        if len(self.installed) == 1:
            self._count("image encoder", adapter.encoder._module)
        super().install_adapter(key, adapter)

    def _count(self, name, module):
        counts = self.seen.setdefault(name, [])
        module.register_forward_hook(lambda _module, inputs, _output: counts.append(len(inputs[0])))


@pytest.fixture
def request_of(sd, xl):
    def of(family):
        adapters = {"sd": sd, "xl": xl}[family]

        def ask(kind, sampler, *, guided=True, **changes):
            sampling = Sampling(sampler=sampler, steps=8, guidance_scale=4.5 if guided else 1.0)
            return request(kind, sampler, guided=guided, **({"sampling": sampling} | changes))

        return adapters, ask

    return of
