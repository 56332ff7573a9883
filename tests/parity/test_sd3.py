"""SD3: every flow sampler x {txt2img, img2img, inpaint} x {guided, unguided}, alone and in company, equals diffusers."""

import random
import shutil

import msgspec
import numpy as np
import pytest
import torch
from driving import run
from sd3_by_diffusers import reference
from test_alone import KINDS, RELATIVE, relative
from test_alone import request as plain
from tiny_sd3 import LATENTS, LAYERS, TinySD3

from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import Phase, Progress
from pipelines.contract.request import Init, Refiner, Sampling, SkipLayers
from pipelines.contract.samplers import SAMPLERS
from pipelines.engine.scheduler import Policy
from pipelines.families.conditioning import Conditioning, stack
from pipelines.families.family import Prompt
from pipelines.families.loading import load

FLOW = [spec for spec in SAMPLERS if spec.flow]
SKIP = SkipLayers(layers=(1, 2), scale=2.8, start=0.01, stop=0.6)


@pytest.fixture(scope="module")
def sd3():
    return TinySD3()


@pytest.fixture(scope="module")
def medium():
    """Like SD 3.5 medium, and without T5."""
    return TinySD3(medium=True, t5=False, seed=1)


@pytest.fixture(scope="module")
def inpainting():
    return TinySD3(in_channels=2 * LATENTS + 1, seed=2)


def request(kind, sampler, *, guided=True, skip=None, steps=7, guidance=4.5, scheduler=None, **changes):
    sampling = Sampling(
        sampler=sampler,
        steps=steps,
        guidance_scale=guidance if guided else 1.0,
        scheduler=scheduler,
        skip_layers=skip,
    )
    return plain(kind, sampler, guided=guided, **({"sampling": sampling} | changes))


def check(tiny, asked):
    result = run({"tiny": tiny.family}, [asked])
    assert not result.failed
    for image in range(len(asked.seeds)):
        latents, pixels = reference(tiny, asked, image)
        assert relative(result.latents[asked.id, image], latents) < RELATIVE
        assert np.abs(result.pixels[asked.id, image].astype(int) - pixels.astype(int)).max() <= 1
    return result


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [spec.id for spec in FLOW])
def test_alone_equals_diffusers(sd3, sampler, kind, guided):
    check(sd3, request(kind, sampler, guided=guided))


@pytest.mark.parametrize(("sampler", "scheduler"), [(spec.id, name) for spec in FLOW for name in sorted(spec.flow)])
def test_every_schedule_equals_diffusers(sd3, sampler, scheduler):
    check(sd3, request("txt2img", sampler, scheduler=scheduler))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_without_t5_and_with_dual_attention_equals_diffusers(medium, sampler, kind):
    check(medium, request(kind, sampler))


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_full_strength_equals_diffusers(sd3, sampler, kind):
    asked = request(kind, sampler)
    check(sd3, request(kind, sampler, init=Init(asked.init.picture, 1.0, asked.init.resize, asked.init.mask)))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_an_inpainting_transformer_equals_diffusers(inpainting, sampler, strength):
    asked = request("inpaint", sampler)
    init = Init(asked.init.picture, strength, asked.init.resize, asked.init.mask)
    check(inpainting, request("inpaint", sampler, init=init))


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_equals_diffusers(sd3, clip_skip):
    check(sd3, request("txt2img", "euler", clip_skip=clip_skip))


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize(
    "skip", [SKIP, SkipLayers((0,), 1.5, 0.3, 0.5), SkipLayers((LAYERS - 2,), 2.8, 0.0, 1.0)], ids=["early", "mid", "all"]
)
def test_skip_layer_guidance_equals_diffusers(medium, sampler, skip):
    check(medium, request("txt2img", sampler, skip=skip))


def test_skip_layer_guidance_changes_the_picture_and_is_counted(medium):
    with_skip = check(medium, request("txt2img", "euler", skip=SKIP))
    without = check(medium, request("txt2img", "euler"))
    (key,) = with_skip.latents
    assert relative(with_skip.latents[key], without.latents[key]) > 100 * RELATIVE
    costs = [batch.size for batch in with_skip.batches if batch.phase is Phase.DENOISE]
    assert costs == [2, 3, 3, 3, 3, 2, 2], "due where 7 * 0.01 < step < 7 * 0.6"


def test_skip_layer_guidance_needs_guidance(medium):
    found = check(medium, request("txt2img", "euler", guided=False, skip=SKIP))
    assert {batch.size for batch in found.batches if batch.phase is Phase.DENOISE} == {1}


def test_a_picture_begun_after_the_skipping_is_not_touched_by_it(medium):
    early = SkipLayers((1,), 2.8, 0.01, 0.25)
    asked = [request("img2img", "euler", skip=skip, id=name) for name, skip in (("with", early), ("without", None))]
    found = run({"tiny": medium.family}, asked)
    assert relative(found.latents["with", 0], found.latents["without", 0]) < RELATIVE


def test_the_steps_told_are_the_steps_done(sd3):
    """0.6 of 7 steps: diffusers' flow pipelines leave out 2 whole steps and run 5, where the older ones would run 4."""
    asked = request("img2img", "heun")
    told = [event for event in run({"tiny": sd3.family}, [asked]).events if isinstance(event, Progress)]
    assert [(event.step, event.steps) for event in told] == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("sampler", ["euler", "lcm", "unipc", "dpmpp_2m", "dpmpp_2s"])
def test_levels_that_shift_with_the_size_equal_diffusers(sampler):
    # Left unsaid, diffusers' pipeline takes a max_shift of 1.16 with some schedulers, and its scheduler's 1.15 with others.
    shifts = {"use_dynamic_shifting": True, "base_image_seq_len": 8, "max_image_seq_len": 64, "max_shift": 1.3}
    tiny = TinySD3(seed=3, scheduler=shifts)
    check(tiny, request("txt2img", sampler, width=96))
    check(tiny, request("img2img", sampler))


def test_a_sampler_that_cannot_shift_is_refused():
    tiny = TinySD3(seed=3, scheduler={"use_dynamic_shifting": True})
    asked = request("txt2img", "heun")
    assert run({"tiny": tiny.family}, [asked]).failed[asked.id].code == "unsupported"


def test_a_checkpoint_that_samples_stochastically_equals_diffusers():
    check(TinySD3(seed=4, scheduler={"stochastic_sampling": True}), request("txt2img", "euler"))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sampler": "ddim"}, "unsupported"),
        ({"sampler": "dpmpp_2m", "scheduler": "karras"}, "unsupported"),
        ({"sampler": "euler", "width": 72}, "invalid_request"),
        ({"sampler": "euler", "width": 512}, "too_large"),
        ({"sampler": "euler", "skip": SkipLayers((LAYERS,))}, "invalid_request"),
    ],
)
def test_what_the_model_cannot_do_is_refused(sd3, changes, code):
    asked = request("txt2img", **changes)
    assert run({"tiny": sd3.family}, [asked]).failed[asked.id].code == code


@pytest.mark.parametrize(("left_out", "missing"), [(False, False), (True, False), (False, True)], ids=["t5", "card", "folder"])
def test_a_folder_loads_with_and_without_t5(sd3, tmp_path, left_out, missing):
    sd3.pipeline("txt2img").save_pretrained(tmp_path)
    if missing:
        shutil.rmtree(tmp_path / "text_encoder_3")
    card = ModelCard(
        id="m",
        source=f"dir:{tmp_path}",
        family=Family.SD3,
        text_encoders={"text_encoder_3": None} if left_out else {},
    )
    family = load(card, torch.device("cpu"), lambda *_: None)
    assert family.facts.prediction_type == "flow_prediction"
    assert (family.facts.patch, family.facts.latent_channels) == (2, LATENTS)
    asked = request("txt2img", "euler")
    found = run({"tiny": family}, [asked]).latents[asked.id, 0]
    wanted, _ = reference(sd3, asked)
    assert (relative(found, wanted) < RELATIVE) == (not left_out and not missing)
    if left_out or missing:
        bare = TinySD3.__new__(TinySD3)
        vars(bare).update(vars(sd3) | {"text_encoder_3": None, "tokenizer_3": None})
        assert relative(found, reference(bare, asked)[0]) < RELATIVE


def test_rows_with_fewer_text_tokens_are_not_touched_by_longer_ones(sd3):
    """A prompt of several chunks beside a short one: the attention over text has no mask, so they part ways."""
    short, long = sd3.family.encode_prompts([Prompt("a star"), Prompt("a red circle")])
    long = Conditioning(torch.cat([long.tokens, long.tokens[:, :77]], dim=1), pooled=long.pooled)
    latents, times = torch.randn(3, LATENTS, 8, 8), torch.tensor([900.0, 500.0, 100.0])
    together = sd3.family.evaluate(latents, times, stack([short, long, short]))
    for index, own in enumerate((short, long, short)):
        alone = sd3.family.evaluate(latents[index : index + 1], times[index : index + 1], own)
        assert relative(together[index : index + 1], alone) < RELATIVE


def test_skip_layers_are_refused_by_other_families(tiny):
    asked = request("txt2img", "euler", skip=SKIP)
    assert run({"tiny": tiny.family}, [asked]).failed[asked.id].code == "unsupported"


def mixed(count, seed):
    rng = random.Random(seed)
    for index in range(count):
        spec = FLOW[index % len(FLOW)]
        kind = rng.choice(KINDS)
        yield request(
            kind,
            spec.id,
            guided=rng.random() < 0.7,
            guidance=rng.uniform(1.5, 9),
            # diffusers has it for txt2img only
            skip=rng.choice([None, SKIP, SkipLayers((0, 2), 1.5, 0.2, 0.8)]) if kind == "txt2img" else None,
            steps=rng.randrange(4, 12),
            scheduler=rng.choice([None, *sorted(spec.flow)]),
            id=f"r{index}",
            seed=rng.randrange(2**32),
            prompt=rng.choice(["a small green star", "a large red circle on a blue background", "", "жёлтый 🟡"]),
            clip_skip=rng.choice([0, 0, 1]),
        )


@pytest.mark.parametrize("policy", [Policy(), Policy(buckets=(1, 2, 4, 6, 8, 12, 16))], ids=["dense", "buckets"])
def test_16_unlike_requests_joining_at_random_ticks(sd3, policy):
    requests = list(mixed(16, seed=4))
    assert sum(asked.sampling.skip_layers is not None and asked.sampling.guided for asked in requests) >= 3
    rng = random.Random(5)
    result = run({"tiny": sd3.family}, requests, join=[rng.randrange(25) for _ in requests], policy=policy)
    assert not result.failed
    assert max(batch.size for batch in result.batches if batch.phase is Phase.DENOISE) >= 12, "they never met"
    worst = 0.0
    for asked in requests:
        latents, pixels = reference(sd3, asked)
        difference = relative(result.latents[asked.id, 0], latents)
        worst = max(worst, difference)
        assert difference < RELATIVE, (asked.id, asked.sampling, difference)
        assert np.abs(result.pixels[asked.id, 0].astype(int) - pixels.astype(int)).max() <= 1
    print(f"largest relative difference to alone, 16 unlike requests: {worst:.1e}")


@pytest.mark.parametrize("budget", [1, 2])
def test_a_row_of_three_evaluations_fits_a_smaller_budget(medium, budget):
    asked = request("txt2img", "euler", skip=SKIP)
    result = run({"tiny": medium.family}, [asked], max_rows=budget)
    assert relative(result.latents[asked.id, 0], reference(medium, asked)[0]) < RELATIVE


def test_a_model_that_refines_itself_changes_nothing():
    shifts = {"use_dynamic_shifting": True, "base_image_seq_len": 8, "max_image_seq_len": 64, "max_shift": 1.3}
    tiny = TinySD3(medium=True, t5=False, seed=3, scheduler=shifts)
    plain = request("txt2img", "euler", skip=SKIP)
    whole = run({"tiny": tiny.family}, [plain])
    for switch_at in (0.2, 0.5):
        refined = msgspec.structs.replace(plain, refiner=Refiner("tiny", switch_at))
        halves = run({"tiny": tiny.family}, [refined])
        assert sum(batch.phase is Phase.ENCODE for batch in halves.batches) == 2
        assert sum(batch.size for batch in halves.batches) == sum(batch.size for batch in whole.batches) + 1
        assert torch.equal(halves.latents[plain.id, 0], whole.latents[plain.id, 0])
