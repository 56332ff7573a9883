"""LoRAs: each row's own equal to diffusers' load_lora_weights and set_adapters run alone, whatever the company."""

import random

import numpy as np
import pytest
import torch
from by_diffusers import reference
from driving import run
from loras import ATTENTION, CONVOLUTIONS, TEXT, changes, kohya_layout, peft_layout, save, use, wearing
from sd3_by_diffusers import reference as sd3_reference
from sdxl_by_diffusers import reference as sdxl_reference
from test_alone import KINDS, RELATIVE, relative, request
from tiny import Tiny
from tiny_sd3 import TinySD3
from tiny_sdxl import TinyXL

from pipelines.contract.messages import Phase
from pipelines.contract.request import Refiner, Sampling

SEEN = 0.01
"""What a LoRA must change, relative, for a test to say anything."""


class Pair:
    """The same random checkpoint twice: ours, and one that diffusers may dress and undress; with LoRA files for it."""

    def __init__(self, family, make, reference, folder):
        self.name, self.reference = family, reference
        self.ours, self.theirs = make(), make()
        network = "transformer" if family == "sd3" else "unet"
        modules = {network: getattr(self.ours, network)}
        modules |= {
            name: module for name in ("text_encoder", "text_encoder_2") if (module := getattr(self.ours, name, None)) is not None
        }
        ends = {network: ATTENTION} | {name: TEXT for name in modules if name != network}
        net = {network: modules[network]}
        self.files = {}

        def write(name, tensors):
            self.files[name] = save(folder / f"{family}-{name}.safetensors", tensors)

        def of(parts, seed, **more):
            return {
                name: changes(module, more.get("ends", ends[name]) if name == network else TEXT, seed=seed + index, **kinds(more))
                for index, (name, module) in enumerate(parts.items())
            }

        def kinds(more):
            return {key: value for key, value in more.items() if key != "ends"}

        def worn(parts):
            """PEFT's names have the level of the text encoder that transformers 5 has done away with."""
            return {
                part: {
                    path if part == network or path.startswith("text_model.") else f"text_model.{path}": layer
                    for path, layer in layers.items()
                }
                for part, layers in parts.items()
            }

        write("net", peft_layout(of(net, 10, rank=3)))
        write("both", peft_layout(worn(of(modules, 20))))
        write("other", peft_layout(worn(of(modules, 30, rank=lambda path: 2 + len(path) % 3))))
        write("dora", peft_layout(of(net, 40, dora=True)))
        if family != "sd3":
            prefixes = {"unet": "unet", "text_encoder": "te" if family == "sd" else "te1", "text_encoder_2": "te2"}
            wide = of(modules, 50, ends=ATTENTION + CONVOLUTIONS)
            write("kohya", kohya_layout({prefixes[part]: layers for part, layers in wide.items()}, alpha=2.0))
            write("locon", peft_layout(of(net, 60, ends=ATTENTION + CONVOLUTIONS)))
            write("dora-conv", peft_layout(of(net, 70, ends=ATTENTION + CONVOLUTIONS, dora=True)))
        else:
            write("kohya", peft_layout(of(net, 80, rank=8, ends=("to_q", "to_k", "to_v", "linear", "context_embedder"))))

    def use(self, name, weight=1.0, text=None):
        return use(self.files[name], self.name, weight, text)

    def alone(self, asked):
        with wearing(self.theirs, asked.loras):
            return self.reference(self.theirs, asked)

    def check(self, result, asked):
        latents, pixels = self.alone(asked)
        difference = relative(result.latents[asked.id, 0], latents)
        assert difference < RELATIVE, (asked.id, asked.loras, difference)
        assert np.abs(result.pixels[asked.id, 0].astype(int) - pixels.astype(int)).max() <= 1
        return difference


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return Pair("sd", Tiny, reference, tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return Pair("sdxl", TinyXL, sdxl_reference, tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    return Pair("sd3", lambda: TinySD3(medium=True), sd3_reference, tmp_path_factory.mktemp("sd3"))


WORN = {
    "network only": [("net", 1.0, None)],
    "network and text": [("both", 0.8, None)],
    "text weighs otherwise": [("both", 0.4, 1.5)],
    "network weighs nothing": [("both", 0.0, 1.5)],
    "text weighs nothing": [("both", 0.7, 0.0)],
    "negative": [("both", -0.6, -0.9)],
    "kohya": [("kohya", 0.9, 0.5)],
    "two": [("both", 0.5, 0.3), ("other", 0.7, 1.2)],
    "three": [("net", 0.5, None), ("kohya", -0.4, 0.6), ("other", 0.3, 0.8)],
    "dora": [("dora", 1.0, None)],
    "dora by half": [("dora", 0.5, None)],
    "dora over another": [("both", 0.7, 0.7), ("dora", 0.8, None)],
    "dora under another": [("dora", 0.8, None), ("both", 0.7, 0.7)],
}
CONV_WORN = {
    "convolutions": [("locon", 1.0, None)],
    "convolutions and others": [("locon", 0.6, None), ("both", -0.7, 0.7), ("kohya", 0.5, None)],
    "dora convolutions": [("dora-conv", 0.7, None), ("locon", 0.5, None)],
}


def ask(pair, worn, kind="txt2img", sampler="euler", **changes):
    loras = tuple(pair.use(*each) for each in worn)
    few = Sampling(sampler=sampler, steps=4, guidance_scale=4.5 if changes.get("guided", True) else 1.0)
    return request(kind, sampler, **({"guided": True, "loras": loras, "sampling": few} | changes))


@pytest.mark.parametrize(
    ("family", "worn"),
    [(family, worn) for family in ("sd", "sdxl", "sd3") for worn in WORN]
    + [(family, worn) for family in ("sd", "sdxl") for worn in CONV_WORN],  # a transformer has no such convolutions
)
def test_alone_equals_diffusers(request, family, worn):
    pair = request.getfixturevalue(family)
    asked = ask(pair, (WORN | CONV_WORN)[worn])
    result = run({"tiny": pair.ours.family}, [asked])
    assert not result.failed
    pair.check(result, asked)
    plain = pair.alone(ask(pair, []))[0]
    assert relative(result.latents[asked.id, 0], plain) > SEEN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_guided_and_unguided_of_every_kind(request, family, kind):
    pair = request.getfixturevalue(family)
    for guided in (True, False):
        asked = ask(pair, WORN["two"], kind, guided=guided)
        result = run({"tiny": pair.ours.family}, [asked])
        assert not result.failed
        pair.check(result, asked)


def company(pair, count, seed):
    rng = random.Random(seed)
    combinations = [[], [], *WORN.values(), *([] if pair.name == "sd3" else CONV_WORN.values())]
    rng.shuffle(combinations)
    for index in range(count):
        worn = [(name, rng.uniform(-1, 1), rng.uniform(-1, 1)) for name, *_ in combinations[index % len(combinations)]]
        guided = rng.random() < 0.6
        guidance = rng.uniform(2, 7) if guided else 1.0
        yield ask(
            pair,
            worn,
            rng.choice(KINDS[:2]),
            id=f"r{index}",
            guided=guided,
            seeds=(index,),
            sampling=Sampling(sampler=rng.choice(["euler", "dpmpp_2m"]), steps=rng.randrange(4, 9), guidance_scale=guidance),
        )


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_unlike_loras_share_ticks_and_each_row_is_as_if_alone(request, family):
    pair = request.getfixturevalue(family)
    requests = list(company(pair, 14, seed=4))
    result = run({"tiny": pair.ours.family}, requests, max_rows=32)
    assert not result.failed
    ticks = [batch for batch in result.batches if batch.phase is Phase.DENOISE]
    busiest = max(ticks, key=lambda batch: len(batch.rows))
    assert len(busiest.rows) == len(requests), "they never met"
    assert len({row.request.loras for row in busiest.rows}) >= 12
    worst = max(pair.check(result, asked) for asked in requests)
    print(f"{family}: largest relative difference to alone, 14 rows: {worst:.1e}")


@pytest.mark.parametrize("max_rows", [1, 3, 5])
def test_a_budget_that_cuts_through_rows_changes_nothing(sd, max_rows):
    requests = list(company(sd, 6, seed=9))
    result = run({"tiny": sd.ours.family}, requests, max_rows=max_rows)
    assert not result.failed
    for asked in requests:
        sd.check(result, asked)


def test_prompts_of_unlike_lengths_in_sd3(sd3):
    # T5 always gives 256 tokens; longer and shorter prompts only differ in CLIP, so the mask is made by hand.
    family = sd3.ours.family
    runner = Masked(family)
    requests = [ask(sd3, worn, id=f"r{index}") for index, worn in enumerate([[], WORN["two"], WORN["dora"], WORN["kohya"]])]
    apart = {asked.id: run({"tiny": runner}, [asked]).latents[asked.id, 0] for asked in requests}
    result = run({"tiny": runner}, requests)
    assert not result.failed
    assert runner.forwards_at_once > 1
    for asked in requests:
        assert relative(result.latents[asked.id, 0], apart[asked.id]) < 1e-5


class Masked:
    """An SD3 whose conditionings are of several lengths, by what they say."""

    def __init__(self, family):
        self._family = family
        self.forwards_at_once = 0

    def __getattr__(self, name):
        return getattr(self._family, name)

    def condition(self, encoded, request, *, negative):
        told = self._family.condition(encoded, request, negative=negative)
        length = told.tokens.shape[1] - 40 * (len(request.id) + int(request.id[1:])) if negative else told.tokens.shape[1]
        return type(told)(told.tokens[:, :length], pooled=told.pooled)

    def forwards(self, conditioning):
        found = self._family.forwards(conditioning)
        self.forwards_at_once = max(self.forwards_at_once, len(found))
        return found


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_loras_beside_a_row_do_not_change_it(request, family):
    pair = request.getfixturevalue(family)
    plain = [ask(pair, [], id="plain", seeds=(1,)), ask(pair, WORN["two"], id="dressed", seeds=(2,))]
    fillers = [ask(pair, [], id=f"f{index}", seeds=(index,)) for index in range(4)]
    others = [ask(pair, worn, id=f"f{index}", seeds=(index,)) for index, worn in enumerate(list(WORN.values())[:4])]
    among_plain = run({"tiny": pair.ours.family}, [*plain, *fillers])
    among_loras = run({"tiny": pair.ours.family}, [*plain, *others])
    assert torch.equal(among_plain.latents["plain", 0], among_loras.latents["plain", 0])
    assert relative(among_loras.latents["dressed", 0], among_plain.latents["dressed", 0]) < 1e-6


def test_rows_come_and_go(sd):
    requests = list(company(sd, 10, seed=2))
    rng = random.Random(1)
    result = run({"tiny": sd.ours.family}, requests, join=[rng.randrange(12) for _ in requests])
    assert not result.failed
    for asked in requests:
        sd.check(result, asked)


def test_a_refiner_has_none_of_the_loras(sdxl):
    refiner = TinyXL(refiner=True, seed=9, vae=sdxl.ours.vae)
    asked = ask(sdxl, WORN["two"], refiner=Refiner("refiner", 0.5))
    result = run({"tiny": sdxl.ours.family, "refiner": refiner.family}, [asked])
    assert not result.failed
    with wearing(sdxl.theirs, asked.loras):
        latents, _ = sdxl_reference(sdxl.theirs, asked, refiner=refiner)
    assert relative(result.latents[asked.id, 0], latents) < RELATIVE
