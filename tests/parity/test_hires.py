"""A second pass within one request: equal to diffusers' pipelines run one after the other, alone and in company."""

import random
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from by_diffusers import reference as one_pass
from driving import run
from enlarged_by_diffusers import reference
from spandrel import ModelLoader
from test_alone import RELATIVE, relative
from test_alone import request as plain
from test_company import Cramped
from tiny_sd3 import TinySD3
from tiny_sdxl import TinyXL

from pipelines.contract.enlarging import Enlarger, Hires
from pipelines.contract.messages import Phase, Preview, Progress
from pipelines.contract.request import Init, Refiner, Sampling
from pipelines.contract.samplers import SAMPLERS
from pipelines.engine.scheduler import Policy

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from upscalers import compact

HIRES = Hires(96, 112, Enlarger.LATENT, strength=0.6)


@pytest.fixture(scope="module")
def base():
    return TinyXL()


@pytest.fixture(scope="module")
def refiner(base):
    return TinyXL(refiner=True, seed=2, vae=base.vae)


@pytest.fixture(scope="module")
def sd3():
    return TinySD3()


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Card of an upscaler whose tiles are smaller than the pictures, and the same network as spandrel runs it."""
    card = compact(tmp_path_factory.mktemp("upscalers") / "larger.safetensors")
    network = ModelLoader().load_from_file(card.source.removeprefix("file:")).eval()
    return msgspec.structs.replace(card, tile=48), network


def ask(sampler="euler", hires=HIRES, *, guided=True, kind="txt2img", **changes):
    made = plain(kind, sampler, guided=guided, **changes)
    return msgspec.structs.replace(made, hires=hires)


def by(enlarger, larger, hires=HIRES):
    return msgspec.structs.replace(hires, enlarger=enlarger, card=larger[0] if enlarger is Enlarger.MODEL else None)


def check(tiny, asked, *, model="tiny", **reference_with):
    result = run({model: tiny.family}, [asked])
    assert not result.failed
    compare(tiny, result, asked, **reference_with)
    return result


def compare(tiny, result, asked, **reference_with):
    for image in range(len(asked.seeds)):
        latents, pixels = reference(tiny, asked, image, **reference_with)
        difference = relative(result.latents[asked.id, image], latents)
        assert difference < RELATIVE, (asked.id, asked.sampling, asked.hires, difference)
        assert result.pixels[asked.id, image].shape == (asked.hires.height, asked.hires.width, 3)
        assert np.abs(result.pixels[asked.id, image].astype(int) - pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("sampler", [spec.id for spec in SAMPLERS if spec.img2img])
def test_latent_equals_two_pipelines(tiny, sampler, guided):
    check(tiny, ask(sampler, guided=guided))


@pytest.mark.parametrize("enlarger", [Enlarger.LANCZOS, Enlarger.MODEL])
@pytest.mark.parametrize("sampler", ["euler", "euler_a", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "pndm"])
def test_pixels_equal_two_pipelines(tiny, larger, sampler, enlarger):
    check(tiny, ask(sampler, by(enlarger, larger)), upscaler=larger[1])


@pytest.mark.parametrize("enlarger", list(Enlarger))
@pytest.mark.parametrize("sampler", ["euler", "euler_a", "dpmpp_2m_sde"])
def test_sdxl_equals_two_pipelines(base, larger, sampler, enlarger):
    check(base, ask(sampler, by(enlarger, larger), model="xl"), model="xl", upscaler=larger[1])


@pytest.mark.parametrize("enlarger", list(Enlarger))
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde"])
def test_sd3_equals_two_pipelines(sd3, larger, sampler, enlarger):
    check(sd3, ask(sampler, by(enlarger, larger), model="sd3"), model="sd3", upscaler=larger[1])


@pytest.mark.parametrize("enlarger", list(Enlarger))
@pytest.mark.parametrize(("strength", "steps"), [(1.0, None), (0.3, 12), (0.5, 4)])
def test_strength_and_steps_are_the_second_pass_s_own(tiny, larger, enlarger, strength, steps):
    hires = msgspec.structs.replace(by(enlarger, larger), strength=strength, steps=steps)
    check(tiny, ask("dpmpp_2m", hires), upscaler=larger[1])


@pytest.mark.parametrize("enlarger", list(Enlarger))
def test_a_picture_may_be_where_it_begins(tiny, larger, enlarger):
    check(tiny, ask("euler_a", by(enlarger, larger), kind="img2img"), upscaler=larger[1])


@pytest.mark.parametrize("enlarger", [Enlarger.LANCZOS, Enlarger.MODEL])
def test_a_picture_may_go_straight_to_the_second_pass(tiny, larger, enlarger):
    init = Init(plain("img2img", "euler", guided=True).init.picture, strength=0.0)
    result = check(tiny, ask("euler_a", by(enlarger, larger), init=init), upscaler=larger[1])
    assert {batch.key.width for batch in result.batches if batch.phase is Phase.DENOISE} == {96}


@pytest.mark.parametrize("enlarger", list(Enlarger))
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_the_refiner_finishes_the_second_pass(base, refiner, larger, sampler, enlarger):
    asked = ask(sampler, by(enlarger, larger), model="xl", refiner=Refiner("refiner", 0.8))
    result = run({"xl": base.family, "refiner": refiner.family}, [asked])
    assert not result.failed
    compare(base, result, asked, upscaler=larger[1], refiner=refiner)
    turns = [(batch.key.model, batch.key.width) for batch in result.batches if batch.phase is Phase.DENOISE]
    assert list(dict.fromkeys(turns)) == [("xl", 64), ("xl", 96), ("refiner", 96)]


def test_several_images_are_each_their_own(tiny, larger):
    for enlarger in Enlarger:
        check(tiny, ask("euler_a", by(enlarger, larger), seeds=(3, 4, 5)), upscaler=larger[1])


def test_nine_channels_too(tiny_inpaint):
    result = run({"tiny": tiny_inpaint.family}, [ask()])
    assert not result.failed
    assert result.pixels[ask().id, 0].shape == (112, 96, 3)


def test_a_changing_prompt_counts_the_second_pass_s_own_steps(tiny):
    changing = ask(prompt="a [circle:star:0.7]")
    circle = ask(prompt="a circle")
    latents = [run({"tiny": tiny.family}, [asked]).latents[asked.id, 0] for asked in (changing, circle)]
    assert relative(*latents) > RELATIVE


@pytest.mark.parametrize("policy", [Policy(), Policy(buckets=(1, 2, 4, 6, 8, 12, 16))], ids=["dense", "buckets"])
def test_unlike_requests_of_both_sizes_in_company(tiny, larger, policy):
    rng = random.Random(3)
    samplers = [spec.id for spec in SAMPLERS if spec.img2img]
    requests = []
    for index in range(18):
        sampling = Sampling(rng.choice(samplers), rng.randrange(4, 12), rng.choice([1.0, 5.0]))
        fields = {"id": f"r{index}", "seeds": (rng.randrange(2**32),), "sampling": sampling}
        if index % 3 == 0:
            size = {"width": 96, "height": 112} if index % 2 else {}
            requests.append(plain("txt2img", sampling.sampler, guided=sampling.guided, **fields, **size))
            continue
        hires = by(rng.choice(list(Enlarger)), larger)
        hires = msgspec.structs.replace(hires, strength=rng.uniform(0.4, 1.0), steps=rng.choice([None, 6]))
        requests.append(ask(sampling.sampler, hires, guided=sampling.guided, **fields))
    result = run({"tiny": tiny.family}, requests, join=[rng.randrange(25) for _ in requests], policy=policy)
    assert not result.failed
    company = {batch.key.width: [batch for batch in result.batches if batch.phase is Phase.DENOISE] for batch in result.batches}
    assert all(max(len(batch.rows) for batch in batches) >= 4 for batches in company.values())
    mixed = [batch for batch in company[96] if len({bool(row.passed) for row in batch.rows}) == 2]
    assert mixed, "first and second passes of one size share ticks"
    for asked in requests:
        if asked.hires is None:
            assert relative(result.latents[asked.id, 0], one_pass(tiny, asked)[0]) < RELATIVE
        else:
            compare(tiny, result, asked, upscaler=larger[1])


@pytest.mark.parametrize("at", [0, 3, 6, 9])
def test_memory_running_out_changes_nothing(tiny, larger, at):
    requests = [ask("euler_a", by(each, larger), id=each.value, seeds=(1, 2)) for each in Enlarger]
    family = Cramped(tiny.family, at)
    result = run({"tiny": family}, requests)
    assert family.refused >= 1
    assert not result.failed
    for asked in requests:
        compare(tiny, result, asked, upscaler=larger[1])


class Forgetful:
    """A family whose VAE runs out of memory at one encoding."""

    def __init__(self, family, at):
        self._family, self._at, self.vae = family, at, self
        self.encoded = 0

    def __getattr__(self, name):
        return getattr(self._family, name) if hasattr(self._family, name) else getattr(self._family.vae, name)

    def moments(self, pixels):
        self.encoded += 1
        if self.encoded == self._at:
            raise torch.OutOfMemoryError("no room")
        return self._family.vae.moments(pixels)


def test_an_encoding_that_is_repeated_draws_the_same_numbers(tiny_inpaint, larger):
    """With nine channels a picture is encoded once numbers have been drawn; here for the second of two rows."""
    asked = ask("euler_a", by(Enlarger.LATENT, larger), seeds=(1, 2))
    calm = run({"tiny": tiny_inpaint.family}, [asked])
    family = Forgetful(tiny_inpaint.family, 3)
    result = run({"tiny": family}, [asked])
    assert not result.failed
    assert len(result.batches) > len(calm.batches)
    for image in range(2):
        assert relative(result.latents[asked.id, image], calm.latents[asked.id, image]) < RELATIVE


@pytest.mark.parametrize("enlarger", list(Enlarger))
def test_progress_counts_both_passes_and_never_falls(tiny, sd3, larger, enlarger):
    for model, family in (("tiny", tiny.family), ("sd3", sd3.family)):
        asked = ask("heun", by(enlarger, larger), kind="img2img", model=model, preview_every=3)
        result = run({model: family}, [asked])
        told = [(event.step, event.steps) for event in result.events if isinstance(event, Progress)]
        assert {steps for _, steps in told} == {told[-1][0]}, "known from the first step on"
        assert [step for step, _ in told] == list(range(1, told[-1][0] + 1))
        widths = [event.picture.width for event in result.events if isinstance(event, Preview)]
        assert set(widths) == {8, 12}
        assert widths == sorted(widths)


@pytest.mark.parametrize("enlarger", list(Enlarger))
def test_others_tick_on_while_a_picture_is_enlarged(tiny, larger, enlarger):
    asked = ask("euler", by(enlarger, larger))
    slow = plain("txt2img", "euler", guided=True, id="slow", sampling=Sampling("euler", 40, 4.0))
    result = run({"tiny": tiny.family}, [slow, asked])
    phases = [batch.phase for batch in result.batches]
    pieces = phases.count(Phase.ENLARGE)
    assert pieces == {Enlarger.LATENT: 0, Enlarger.LANCZOS: 1, Enlarger.MODEL: 4}[enlarger]
    assert all(two != (Phase.ENLARGE, Phase.ENLARGE) for two in pairwise(phases))


@pytest.mark.parametrize(
    ("hires", "changes", "param"),
    [
        (HIRES, {"sampling": Sampling("ipndm", 8, 4.0)}, "hires"),
        (Hires(96, 100), {}, "hires"),
        (Hires(96, 112, strength=0.05), {}, "hires"),
        (Hires(96, 112, steps=3000), {}, "hires"),
        (Hires(32, 112), {}, "hires"),
        (Hires(96, 112, strength=0.0), {}, "hires"),
        (Hires(96, 112, Enlarger.MODEL), {}, "hires"),
        (HIRES, {"kind": "inpaint"}, "hires"),
    ],
    ids=["sampler", "size", "no step left", "too many steps", "smaller", "strength", "no card", "mask"],
)
def test_what_cannot_be_done_is_refused_before_any_tick(tiny, hires, changes, param):
    kind = changes.pop("kind", "txt2img")
    asked = ask("euler", hires, kind=kind, **changes)
    result = run({"tiny": tiny.family}, [asked])
    assert result.failed[asked.id].param == param
    assert not [batch for batch in result.batches if batch.phase is Phase.DENOISE]
