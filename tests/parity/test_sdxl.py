"""SDXL: alone it equals diffusers' own pipelines, in company it equals itself alone."""

import json
import random
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from driving import run
from sdxl_by_diffusers import reference
from test_alone import KINDS, RELATIVE, relative
from test_alone import request as plain_request
from test_company import Cramped
from tiny_sdxl import TinyXL

from pipelines.contract.catalog import Dtype, ModelCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.contract.messages import Phase, Preview, Progress
from pipelines.contract.request import ImageRequest, Init, Refiner, Sampling, SizeConditioning
from pipelines.contract.samplers import SAMPLERS
from pipelines.engine.engine import Engine
from pipelines.engine.torch_runner import TorchRunner
from pipelines.families.loading import load

SIZES = SizeConditioning(original=(120, 96), crop=(8, 24), target=(72, 56))


@pytest.fixture(scope="module")
def base():
    return TinyXL()


@pytest.fixture(scope="module")
def inpaint():
    return TinyXL(in_channels=9, seed=1)


@pytest.fixture(scope="module")
def refiner(base):
    return TinyXL(refiner=True, seed=2, vae=base.vae)


def ask(kind: str, sampler: str, **changes: object) -> ImageRequest:
    return plain_request(kind, sampler, **({"guided": True, "model": "xl"} | changes))


def check(tiny: TinyXL, asked: ImageRequest) -> None:
    result = run({"xl": tiny.family}, [asked])
    assert not result.failed
    compare(result, asked, tiny)


def compare(result, asked: ImageRequest, tiny: TinyXL, refiner: TinyXL | None = None) -> float:
    worst = 0.0
    for image in range(len(asked.seeds)):
        latents, pixels = reference(tiny, asked, image, refiner)
        worst = max(worst, relative(result.latents[asked.id, image], latents))
        assert worst < RELATIVE, (asked.id, asked.sampling, worst)
        assert np.abs(result.pixels[asked.id, image].astype(int) - pixels.astype(int)).max() <= 1
    return worst


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["euler", "euler_a", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "unipc", "heun", "lcm"])
def test_alone_equals_diffusers(base, sampler, kind, guided):
    check(base, ask(kind, sampler, guided=guided))


@pytest.mark.parametrize("negative", ["", "a square"])
@pytest.mark.parametrize("zeros", [True, False])
def test_an_empty_negative_prompt_is_zeros_where_the_checkpoint_says_so(negative, zeros):
    tiny = TinyXL(zeros=zeros)
    check(tiny, ask("txt2img", "euler", negative_prompt=negative))


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_equal_diffusers(base, kind):
    asked = ask(kind, "euler", sizes=SIZES)
    check(base, asked)
    told = run({"xl": base.family}, [asked]).latents[asked.id, 0]
    untold = run({"xl": base.family}, [ask(kind, "euler")]).latents[asked.id, 0]
    assert relative(told, untold) > RELATIVE, "the sizes reach the network"


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_equals_diffusers(base, clip_skip):
    check(base, ask("txt2img", "euler", clip_skip=clip_skip))


def test_more_layers_than_the_shorter_encoder_has_cannot_be_skipped(base):
    asked = ask("txt2img", "euler", clip_skip=base.family.max_clip_skip + 1)
    assert run({"xl": base.family}, [asked]).failed[asked.id].param == "clip_skip"


def test_guidance_rescale_equals_diffusers(base):
    sampling = Sampling(sampler="euler", steps=6, guidance_scale=7.0, guidance_rescale=0.7)
    check(base, ask("txt2img", "euler", sampling=sampling))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m", "ddim"])
def test_nine_channel_inpainting_equals_diffusers(inpaint, sampler, strength):
    init = ask("inpaint", sampler).init
    again = Init(picture=init.picture, strength=strength, resize=init.resize, mask=init.mask)
    check(inpaint, ask("inpaint", sampler, init=again))


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
def test_the_refiner_alone_equals_diffusers(refiner, kind):
    scores = SizeConditioning(original=(120, 96), crop=(8, 24), aesthetic_score=7.5, negative_aesthetic_score=1.5)
    check(refiner, ask(kind, "euler_a"))
    check(refiner, ask(kind, "euler", sizes=scores, negative_prompt=""))


def test_the_refiner_cannot_begin_from_nothing(refiner):
    asked = ask("txt2img", "euler")
    failed = run({"xl": refiner.family}, [asked]).failed[asked.id]
    assert failed.code == "unsupported"
    assert "refiner" in failed.message


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("euler_a", "sgm_uniform"), ("euler", "sgm_uniform"), ("ddim", "sgm_uniform"), ("tcd", "sgm_uniform"), ("lcm", None)],
    ids=["turbo", "lightning", "hyper", "hyper-tcd", "lcm"],
)
@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_few_steps_equal_diffusers(base, sampler, scheduler, steps, guidance):
    sampling = Sampling(sampler=sampler, steps=steps, guidance_scale=guidance, scheduler=scheduler)
    check(base, ask("txt2img", sampler, guided=False, sampling=sampling))


@pytest.mark.parametrize("sampler", ["euler_a", "euler", "ddim"])
def test_a_checkpoint_with_trailing_timesteps_needs_no_scheduler_name(sampler):
    trailing = TinyXL(timestep_spacing="trailing")
    sampling = Sampling(sampler=sampler, steps=2, guidance_scale=0.0)
    asked = ask("txt2img", sampler, guided=False, sampling=sampling)
    check(trailing, asked)
    assert run({"xl": trailing.family}, [asked]).batches[1].phase is Phase.DENOISE


REFINED = Refiner("refiner", 0.6)


def both(base: TinyXL, refiner: TinyXL) -> dict[str, object]:
    return {"xl": base.family, "refiner": refiner.family}


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("sampler", [spec.id for spec in SAMPLERS if spec.img2img])
def test_base_then_refiner_equals_diffusers(base, refiner, sampler, guided):
    asked = ask("txt2img", sampler, guided=guided, refiner=REFINED)
    result = run(both(base, refiner), [asked])
    assert not result.failed
    compare(result, asked, base, refiner)
    assert {batch.key.model for batch in result.batches if batch.phase is Phase.DENOISE} == {"xl", "refiner"}


@pytest.mark.parametrize("switch_at", [0.05, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("scheduler", [None, "karras", "sgm_uniform"])
def test_the_switch_lies_where_diffusers_has_it(base, refiner, switch_at, steps, scheduler):
    sampling = Sampling(sampler="euler", steps=steps, guidance_scale=4.0, scheduler=scheduler)
    asked = ask("txt2img", "euler", sampling=sampling, refiner=Refiner("refiner", switch_at), sizes=SIZES, clip_skip=1)
    result = run(both(base, refiner), [asked])
    assert not result.failed
    compare(result, asked, base, refiner)


@pytest.mark.parametrize("strength", [0.9, 0.6])
def test_img2img_then_refiner_equals_diffusers(base, refiner, strength):
    init = ask("img2img", "euler").init
    asked = ask("img2img", "dpmpp_2m", init=Init(init.picture, strength, init.resize), refiner=REFINED)
    result = run(both(base, refiner), [asked])
    compare(result, asked, base, refiner)


def test_a_strength_that_begins_after_the_switch_leaves_all_to_the_refiner(base, refiner):
    init = Init(ask("img2img", "euler").init.picture, 0.3)
    asked = ask("img2img", "euler", init=init, refiner=REFINED)
    result = run(both(base, refiner), [asked])
    assert not result.failed
    ticks = [batch.key.model for batch in result.batches if batch.phase is Phase.DENOISE]
    assert ticks == ["refiner"] * 2
    alone = run({"xl": refiner.family}, [ask("img2img", "euler", init=init)])
    # The refiner alone reads the picture through the same VAE with the same numbers.
    assert relative(result.latents[asked.id, 0], alone.latents[asked.id, 0]) < RELATIVE


@pytest.mark.parametrize("painter", ["base", "inpaint"])
def test_a_mask_holds_through_both_stages(base, inpaint, refiner, painter):
    first = base if painter == "base" else inpaint
    asked = ask("inpaint", "euler_a", refiner=REFINED)
    result = run({"xl": first.family, "refiner": refiner.family}, [asked])
    assert not result.failed
    if painter == "base":
        unrefined = run({"xl": first.family}, [ask("inpaint", "euler_a")])
        kept = np.asarray(asked.init.mask.data and list(asked.init.mask.data)).reshape(64, 64)[::8, ::8] < 128
        both_ways = [each.latents[asked.id, 0][0, :, kept] for each in (result, unrefined)]
        assert np.array_equal(*both_ways), "what the mask keeps is the picture, whoever paints the rest"


def test_a_refiner_of_another_kind_is_refused(base, inpaint):
    asked = ask("txt2img", "euler", refiner=REFINED)
    failed = run({"xl": base.family, "refiner": inpaint.family}, [asked]).failed[asked.id]
    assert (failed.code, failed.param) == ("unsupported", "refiner")


def test_a_prompt_that_changes_keeps_its_time_over_the_switch(base, refiner):
    changing = ask("txt2img", "euler", refiner=REFINED, prompt="a [circle:star:6]")
    star = ask("txt2img", "euler", refiner=REFINED, prompt="a star")
    circle = ask("txt2img", "euler", refiner=REFINED, prompt="a circle")
    families = both(base, refiner)
    latents = {}
    for name, asked in (("changing", changing), ("star", star), ("circle", circle)):
        result = run(families, [asked])
        assert not result.failed
        latents[name] = result.latents[asked.id, 0]
    assert relative(latents["changing"], latents["star"]) > RELATIVE, "the base was told of a circle"
    assert relative(latents["changing"], latents["circle"]) > RELATIVE, "the refiner was told of a star in its last steps"


def test_no_stacked_conditioning_outlives_the_change_of_models(base, refiner):
    runner = TorchRunner(base.device)
    engine = Engine(runner)
    for name, family in both(base, refiner).items():
        runner.add(name, family)
        engine.adopt(ModelCard(id=name, source="", family=family.facts.family))
    engine.generate(ask("txt2img", "euler", refiner=REFINED, seeds=(1, 2)))
    while engine.busy:
        engine.step()
        held = {id(each) for state in runner._states.values() for each in state.conditioning}
        kept = set().union(*runner._forwards._conditioning)
        assert kept <= held, "a stack of what no row holds any more: its identity may be somebody else's by now"


def test_refined_rows_in_company(base, refiner):
    rng = random.Random(3)
    requests = [
        msgspec.structs.replace(asked, init=None, refiner=Refiner("refiner", rng.choice([0.3, 0.5, 0.8]))) if index % 2 else asked
        for index, asked in enumerate(mixed(14, seed=4))
    ]
    requests += [ask("img2img", "euler_a", id=f"own{i}", model="refiner", seeds=(i, i + 1)) for i in range(2)]
    result = run(both(base, refiner), requests, join=[rng.randrange(20) for _ in requests])
    assert not result.failed
    for asked in requests:
        compare(result, asked, base if asked.model == "xl" else refiner, refiner)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s"])
def test_progress_and_previews_go_on_over_the_switch(base, refiner, sampler):
    asked = ask("txt2img", sampler, refiner=REFINED, seeds=(1, 2), preview_every=1)
    result = run(both(base, refiner), [asked])
    for image in (0, 1):
        steps = [e.step for e in result.events if isinstance(e, Progress) and e.image == image]
        assert steps == list(range(1, 9))
        looks = [e.step for e in result.events if isinstance(e, Preview) and e.image == image]
        assert looks == list(range(1, 8))
    plain = msgspec.structs.replace(asked, preview_every=0)
    compare(result, plain, base, refiner)


@pytest.mark.parametrize("at", [0, 2])
def test_memory_running_out_around_the_switch_changes_nothing(base, refiner, at):
    requests = [ask("txt2img", "euler_a", id=f"r{i}", seeds=(i,), refiner=REFINED) for i in range(4)]
    cramped = {"xl": Cramped(base.family, at), "refiner": Cramped(refiner.family, at)}
    result = run(cramped, requests)
    assert cramped["xl"].refused
    assert cramped["refiner"].refused
    assert not result.failed
    for asked in requests:
        compare(result, asked, base, refiner)


def mixed(count: int, seed: int):
    rng = random.Random(seed)
    specs = [spec for spec in SAMPLERS if spec.img2img]
    rng.shuffle(specs)
    for index in range(count):
        spec, kind, guided = specs[index % len(specs)], rng.choice(KINDS), rng.random() < 0.6
        sampling = Sampling(
            sampler=spec.id,
            steps=rng.randrange(4, 12),
            guidance_scale=rng.uniform(1.5, 9) if guided else 0.0,
            scheduler=rng.choice([None, *sorted(spec.schedulers)]),
        )
        sizes = SizeConditioning(
            original=rng.choice([None, (rng.randrange(32, 200), rng.randrange(32, 200))]),
            crop=(rng.randrange(32), rng.randrange(32)),
            target=rng.choice([None, (rng.randrange(32, 200), rng.randrange(32, 200))]),
        )
        yield ask(
            kind,
            spec.id,
            guided=guided,
            id=f"r{index}",
            seed=rng.randrange(2**32),
            sampling=sampling,
            sizes=rng.choice([None, sizes]),
            negative_prompt=rng.choice(["", "a square"]),
            prompt=rng.choice(["a small green star", "a large red circle on a blue background", "", "жёлтый 🟡"]),
            clip_skip=rng.choice([0, 0, 1]),
        )


def test_16_unlike_requests_joining_at_random_ticks(base):
    requests = list(mixed(16, seed=11))
    rng = random.Random(5)
    result = run({"xl": base.family}, requests, join=[rng.randrange(20) for _ in requests])
    assert not result.failed
    assert max(batch.size for batch in result.batches if batch.phase is Phase.DENOISE) >= 10, "they never met"
    worst = max(compare(result, asked, base) for asked in requests)
    print(f"largest relative difference to alone, 16 unlike SDXL requests: {worst:.1e}")


def test_sd_and_sdxl_take_turns(tiny, base, inpaint):
    from by_diffusers import reference as sd_reference

    old = [plain_request("txt2img", "euler", guided=True, id=f"o{i}", seeds=(i,)) for i in range(3)]
    new = [ask("img2img", "dpmpp_2m", id=f"n{i}", seeds=(i, i + 9), width=64) for i in range(3)]
    wide = [ask("txt2img", "ddim", id=f"w{i}", seeds=(i,), width=96, sizes=SIZES) for i in range(2)]
    masked = [ask("inpaint", "euler_a", id=f"m{i}", seeds=(i,), model="painter") for i in range(2)]
    families = {"tiny": tiny.family, "xl": base.family, "painter": inpaint.family}
    result = run(families, [*old, *new, *wide, *masked])
    assert not result.failed
    turns = [batch.key for batch in result.batches if batch.phase is Phase.DENOISE]
    assert sum(a != b for a, b in pairwise(turns)) > 4, "they take turns"
    for asked in old:
        assert relative(result.latents[asked.id, 0], sd_reference(tiny, asked)[0]) < RELATIVE
    for asked in (*new, *wide):
        compare(result, asked, base)
    for asked in masked:
        compare(result, asked, inpaint)


@pytest.mark.parametrize("which", ["base", "inpaint", "refiner"])
def test_a_folder_loads_as_what_it_is(which, tmp_path, request):
    tiny = request.getfixturevalue(which)
    tiny.pipeline("img2img").save_pretrained(tmp_path, safe_serialization=True)
    family = load(card(tmp_path), tiny.device, lambda _part, _done: None)
    told, own = family.facts, tiny.family.facts
    assert msgspec.structs.replace(told, load_seconds=0.0) == own
    assert (told.inpainting, told.refines_only) == (which == "inpaint", which == "refiner")
    asked = ask("inpaint", "euler", negative_prompt="")
    result = run({"xl": family}, [asked])
    assert not result.failed
    compare(result, asked, tiny)


def test_a_base_model_that_says_it_is_a_refiner_is_refused(base, tmp_path):
    base.pipeline("img2img").save_pretrained(tmp_path, safe_serialization=True)
    index = tmp_path / "model_index.json"
    settings = json.loads(index.read_text())
    index.write_text(json.dumps(settings | {"requires_aesthetics_score": True}))
    with pytest.raises(ModelLoadFailed, match="requires_aesthetics_score"):
        load(card(tmp_path), base.device, lambda _part, _done: None)


def card(folder: Path) -> ModelCard:
    return ModelCard(id="xl", source=f"dir:{folder}", family=Family.SDXL, dtype=Dtype.FLOAT32)
