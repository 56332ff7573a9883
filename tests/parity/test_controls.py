"""Control networks for SD: each alone equals diffusers' own pipelines, in company it equals itself alone."""

from contextlib import contextmanager

import diffusers
import msgspec
import numpy as np
import pytest
import torch
from by_diffusers import reference as plain_reference
from control_by_diffusers import reference
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from driving import run
from test_alone import KINDS, RELATIVE, relative
from test_alone import request as plain
from tiny import Tiny
from tiny_controls import GUESS, SAMPLERS, controlnet, long_enough, t2i_adapter

from pipelines.contract.control import Balance
from pipelines.contract.family import Family
from pipelines.contract.messages import Phase
from pipelines.contract.request import Init
from pipelines.engine.scheduler import Policy
from pipelines.families.sd import StableDiffusion


@pytest.fixture(scope="module")
def tiny():
    """Blocks as SD 1 has them, the last without attention: T2I-Adapters fit no others."""
    made = Tiny()
    torch.manual_seed(20)
    made.unet = diffusers.UNet2DConditionModel(
        **dict(made.unet.config)
        | {
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        }
    ).eval()
    made.family = StableDiffusion(made.unet, made.vae, made.text_encoder, made.tokenizer, made.scheduler.config)
    return made


@pytest.fixture(scope="module")
def controls(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    full = {"channels": [16, 32, 32], "num_res_blocks": 1}
    made = [
        controlnet(folder / "a", tiny.unet, Family.SD, seed=1),
        controlnet(folder / "b", tiny.unet, Family.SD, seed=2),
        controlnet(folder / "pooling", tiny.unet, Family.SD, seed=3, global_pool_conditions=True),
        controlnet(folder / "bgr", tiny.unet, Family.SD, seed=4, controlnet_conditioning_channel_order="bgr"),
        t2i_adapter(folder / "adapter", Family.SD, seed=5, **full),
        t2i_adapter(folder / "adapter-b", Family.SD, seed=6, **full),
        t2i_adapter(folder / "light", Family.SD, seed=7, channels=[16, 32], num_res_blocks=1, adapter_type="light_adapter"),
    ]
    return {each.card.name: each for each in made}


@pytest.fixture(scope="module")
def two_blocks(tiny_v, tmp_path_factory):
    """For the tiny models that the other tests share."""
    folder = tmp_path_factory.mktemp("two-blocks")
    made = [controlnet(folder / name, tiny_v.unet, Family.SD, seed=seed) for seed, name in enumerate("ab")]
    return {each.card.name: each for each in made}


def check(tiny, asked, controls):
    """Equal to diffusers, and not what it would be without the control."""
    result = run({"tiny": tiny.family}, [asked, bare(asked)])
    assert not result.failed
    for image in range(len(asked.seeds)):
        latents, pixels = reference(tiny, asked, controls, image)
        assert relative(result.latents[asked.id, image], latents) < RELATIVE
        assert np.abs(result.pixels[asked.id, image].astype(int) - pixels.astype(int)).max() <= 1
        assert relative(result.latents[asked.id, image], result.latents["bare", image]) > 0.01, "the control says nothing"


def bare(asked):
    return msgspec.structs.replace(asked, id="bare", controls=())


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_controlnet_equals_diffusers(tiny, controls, sampler, kind, guided):
    check(tiny, plain(kind, sampler, guided=guided, controls=(controls["a"].use(),)), controls)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 1.0), (0.2, 0.8)])
def test_its_share_of_the_way_is_counted_as_diffusers_does(tiny, controls, sampler, start, end):
    for kind in ("txt2img", "img2img"):
        check(tiny, plain(kind, sampler, guided=True, controls=(controls["a"].use(start=start, end=end),)), controls)


@pytest.mark.parametrize("kind", KINDS)
def test_two_controlnets_equal_diffusers(tiny, controls, kind):
    uses = (controls["a"].use(1, weight=1.2, end=0.7), controls["b"].use(2, weight=0.5, start=0.2))
    check(tiny, plain(kind, "euler", guided=True, controls=uses), controls)


def test_one_controlnet_with_two_pictures_equals_diffusers(tiny, controls):
    uses = (controls["a"].use(1), controls["a"].use(2, weight=0.4), controls["b"].use(3))
    check(tiny, plain("txt2img", "euler", guided=True, controls=uses), controls)


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_balance_control_is_diffusers_guess_mode(tiny, controls, kind, guided):
    check(tiny, plain(kind, "euler", guided=guided, controls=(controls["a"].use(**GUESS),)), controls)


def test_the_balance_prompt_fades_likewise_for_both_prompts(tiny, controls):
    """diffusers has no such mode but where there is only one prompt, in which it is the same as the other."""
    prompt = plain("txt2img", "euler", guided=False, controls=(controls["a"].use(balance=Balance.PROMPT),))
    check(tiny, prompt, controls)
    guided = [
        plain("txt2img", "euler", guided=True, id=each.value, controls=(controls["a"].use(balance=each),)) for each in Balance
    ]
    result = run({"tiny": tiny.family}, guided)
    for one, other in (("balanced", "prompt"), ("prompt", "control"), ("balanced", "control")):
        assert relative(result.latents[one, 0], result.latents[other, 0]) > 0.001


def test_a_network_that_pools_speaks_to_the_positive_prompt_only(tiny, controls):
    check(tiny, plain("txt2img", "euler", guided=True, controls=(controls["pooling"].use(),)), controls)


def test_a_network_trained_on_reversed_colours(tiny, controls):
    check(tiny, plain("txt2img", "euler", guided=True, controls=(controls["bgr"].use(),)), controls)


def test_v_prediction(tiny_v, two_blocks):
    check(tiny_v, plain("txt2img", "dpmpp_2m", guided=True, controls=(two_blocks["a"].use(),)), two_blocks)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_beside_nine_channels_it_sees_the_latents_only(tiny_inpaint, two_blocks, strength):
    asked = plain("inpaint", "euler", guided=True, controls=(two_blocks["a"].use(), two_blocks["b"].use(2)))
    init = asked.init
    init = Init(picture=init.picture, strength=strength, resize=init.resize, mask=init.mask)
    check(tiny_inpaint, msgspec.structs.replace(asked, init=init), two_blocks)


def test_a_stretched_control_image_equals_diffusers(tiny, controls):
    asked = plain("txt2img", "euler", guided=True, width=96, controls=(controls["a"].use(size=(80, 48)),))
    check(tiny, asked, controls)


@pytest.mark.parametrize("name", ["adapter", "light"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_t2i_adapter_equals_diffusers(tiny, controls, sampler, name):
    for guided in (True, False):
        check(tiny, plain("txt2img", sampler, guided=guided, controls=(controls[name].use(),)), controls)


def test_two_t2i_adapters_equal_diffusers(tiny, controls):
    uses = (controls["adapter"].use(1, weight=0.9), controls["adapter-b"].use(2, weight=0.3))
    check(tiny, plain("txt2img", "euler", guided=True, controls=uses), controls)


def test_seeds_of_one_request_share_what_is_read_of_its_picture(tiny, controls):
    asked = plain("txt2img", "euler_a", guided=True, seeds=(3, 4, 5), controls=(controls["a"].use(),))
    check(tiny, asked, controls)
    with watched(ControlNetConditioningEmbedding) as seen:
        run({"tiny": tiny.family}, [asked])
    assert list(seen.values()) == [[1]], "one picture is read, once for all images and steps"


def company(controls):
    a, b, adapter = controls["a"], controls["b"], controls["adapter"]
    made = {
        "plain": plain("txt2img", "euler", guided=True),
        "a": plain("txt2img", "dpmpp_2m", guided=True, controls=(a.use(1, end=0.5),)),
        "b": plain("txt2img", "euler", guided=True, controls=(b.use(2, weight=1.1),)),
        "a+b": plain("txt2img", "heun", guided=True, controls=(a.use(3), b.use(4, weight=0.3, start=0.2))),
        "a-unguided": plain("txt2img", "euler", guided=False, controls=(a.use(5),)),
        "a-guess": plain("txt2img", "euler", guided=True, controls=(a.use(6, **GUESS),)),
        "adapter": plain("txt2img", "euler", guided=True, controls=(adapter.use(7),)),
        "img2img": plain("img2img", "euler", guided=True, controls=(b.use(8),)),
        "inpaint": plain("inpaint", "euler_a", guided=True, controls=(a.use(9),)),
        "plain-inpaint": plain("inpaint", "ddim", guided=True),
        "plain-unguided": plain("txt2img", "euler_a", guided=False),
    }
    return long_enough(made)


@pytest.mark.parametrize("policy", [Policy(), Policy(buckets=(1, 2, 4, 8, 16, 24))], ids=["dense", "buckets"])
def test_in_company_each_row_is_as_alone_and_networks_see_their_own_rows_only(tiny, controls, policy):
    requests = company(controls)
    with watched() as seen:
        result = run({"tiny": tiny.family}, list(requests.values()), max_rows=24, policy=policy)
    assert not result.failed
    ticks = [batch for batch in result.batches if batch.phase is Phase.DENOISE]
    assert max(len(batch.rows) for batch in ticks) == len(requests), "they never met"
    # a: for half of 12 steps, for all of 23 evaluations of Heun's, unguided, by positive prompts, and inpainting 10 of 12 steps.
    # b: all of 12, those after the first fifth of 23, and 10 of 12.
    assert sorted(sum(each) for each in seen.values()) == [2 * (12 + 18 + 10), 2 * (6 + 23 + 10) + 12 + 12]
    assert all(len(each) <= len(ticks) for each in seen.values()), "one forward of each network in a tick"
    for name, asked in requests.items():
        wanted, pixels = reference(tiny, asked, controls) if asked.controls else plain_reference(tiny, asked)
        assert relative(result.latents[name, 0], wanted) < RELATIVE, name
        assert np.abs(result.pixels[name, 0].astype(int) - pixels.astype(int)).max() <= 1


@contextmanager
def watched(kind=diffusers.ControlNetModel):
    """How many evaluations each forward of each module of a ``kind`` has."""
    seen = {}

    def note(module, args):
        if isinstance(module, kind):
            seen.setdefault(id(module), []).append(len(args[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def test_plain_rows_do_not_notice(tiny, controls):
    rows = [plain("txt2img", "euler", guided=True, id=f"plain-{seed}", seeds=(seed,)) for seed in (1, 2)]
    filler = [plain("txt2img", "euler", guided=True, id=f"other-{seed}", seeds=(seed,)) for seed in (3, 4)]
    controlled = [msgspec.structs.replace(each, controls=(controls["a"].use(),)) for each in filler]
    without, beside = (run({"tiny": tiny.family}, [*rows, *others]) for others in (filler, controlled))
    for row in rows:
        assert torch.equal(without.latents[row.id, 0], beside.latents[row.id, 0])


def test_rows_whose_prompts_differ_in_length(tiny, controls):
    long = " ".join(["a large red circle on a blue background,"] * 14)
    use = controls["a"].use()
    asked = [
        plain("txt2img", "euler", guided=True, id="short", controls=(use,)),
        plain("txt2img", "euler", guided=True, id="long", prompt=long, controls=(use,)),
        plain("txt2img", "euler", guided=True, id="plain", prompt=long),
    ]
    together = run({"tiny": tiny.family}, asked)
    assert len({id(batch) for batch in together.batches if batch.phase is Phase.DENOISE and len(batch.rows) == 3}) == 8
    for each in asked:
        alone = run({"tiny": tiny.family}, [each])
        assert relative(together.latents[each.id, 0], alone.latents[each.id, 0]) < RELATIVE
    assert relative(together.latents["short", 0], reference(tiny, asked[0], controls)[0]) < RELATIVE
    assert relative(together.latents["long", 0], together.latents["plain", 0]) > 0.01


def test_a_budget_smaller_than_the_tick_changes_nothing(tiny, controls):
    requests = [each for name, each in company(controls).items() if name in ("a", "a+b", "plain", "adapter")]
    result = run({"tiny": tiny.family}, requests, max_rows=3)
    for asked in requests:
        wanted, _ = reference(tiny, asked, controls) if asked.controls else plain_reference(tiny, asked)
        assert relative(result.latents[asked.id, 0], wanted) < RELATIVE, asked.id


def test_a_weight_of_nothing_says_nothing(tiny, controls):
    asked = plain("txt2img", "euler", guided=True, controls=(controls["a"].use(weight=0.0),))
    result = run({"tiny": tiny.family}, [asked, bare(asked)])
    assert torch.equal(result.latents[asked.id, 0], result.latents["bare", 0])
