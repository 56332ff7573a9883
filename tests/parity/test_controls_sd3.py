"""ControlNets for SD3, of every build there is: equal to diffusers' own pipeline, alone and in company."""

import msgspec
import numpy as np
import pytest
import torch
from control_by_diffusers import reference
from driving import run
from sd3_by_diffusers import reference as plain_reference
from test_alone import RELATIVE, relative
from test_sd3 import request
from tiny_controls import long_enough, sd3_controlnet
from tiny_sd3 import LAYERS, TinySD3

from pipelines.contract.control import Balance
from pipelines.contract.messages import Phase
from pipelines.contract.picture import Picture

BUILDS = {
    "two": {},
    "one": {"num_layers": 1},
    "every": {"num_layers": LAYERS},
    "pooled": {"force_zeros_for_pooled_projection": False},
    "dual": {"dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    "large": {"use_pos_embed": False, "joint_attention_dim": None, "force_zeros_for_pooled_projection": False},
    "masked": {"extra_conditioning_channels": 1},
}


@pytest.fixture(scope="module")
def sd3():
    """diffusers draws the control's latents without the generator it is given: with a VAE that is sure both have the same."""
    tiny = TinySD3()
    with torch.no_grad():
        convolution = tiny.vae.encoder.conv_out
        convolution.weight[16:] = 0.0
        convolution.bias[16:] = -30.0
    return tiny


@pytest.fixture(scope="module")
def controls(sd3, tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    made = [
        sd3_controlnet(folder / name, sd3.transformer, seed=index, **changes)
        for index, (name, changes) in enumerate(BUILDS.items())
    ]
    return {each.card.name: each for each in made}


def check(tiny, asked, controls):
    bare = msgspec.structs.replace(asked, id="bare", controls=())
    result = run({"tiny": tiny.family}, [asked, bare])
    assert not result.failed
    latents, pixels = reference(tiny, asked, controls)
    assert relative(result.latents[asked.id, 0], latents) < RELATIVE
    assert np.abs(result.pixels[asked.id, 0].astype(int) - pixels.astype(int)).max() <= 1
    assert relative(result.latents[asked.id, 0], result.latents["bare", 0]) > 0.01, "the control says nothing"


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "masked"])
def test_every_build_equals_diffusers(sd3, controls, name):
    check(sd3, request("txt2img", "euler", controls=(controls[name].use(),)), controls)


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
def test_every_kind_of_sampler_equals_diffusers(sd3, controls, sampler, guided):
    use = controls["two"].use(start=0.2, end=0.8)
    check(sd3, request("txt2img", sampler, guided=guided, controls=(use,)), controls)


def test_two_controlnets_equal_diffusers(sd3, controls):
    uses = (controls["two"].use(1, end=0.7), controls["dual"].use(2, weight=0.4))
    check(sd3, request("txt2img", "euler", controls=uses), controls)


def test_one_that_fills_in_what_is_transparent(sd3, controls):
    """As diffusers' inpainting pipeline for it, which takes the mask apart from the picture."""
    import diffusers

    use = controls["masked"].use()
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 8:40] = 255
    rgb = np.frombuffer(use.picture.data, np.uint8).reshape(64, 64, 3)
    rgba = np.concatenate([rgb, 255 - mask[:, :, None]], axis=2)
    picture = Picture(width=64, height=64, mode="RGBA", data=rgba.tobytes())
    asked = request("txt2img", "euler", controls=(msgspec.structs.replace(use, picture=picture),))
    result = run({"tiny": sd3.family}, [asked])
    assert not result.failed
    parts = sd3.pipeline("txt2img").components
    parts = {name: part for name, part in parts.items() if name not in ("image_encoder", "feature_extractor")}
    pipeline = diffusers.StableDiffusion3ControlNetInpaintingPipeline(**parts, controlnet=controls["masked"].module)
    pipeline.set_progress_bar_config(disable=True)
    from PIL import Image

    with torch.inference_mode():
        wanted = pipeline(
            prompt=asked.prompt,
            negative_prompt=asked.negative_prompt,
            num_inference_steps=asked.sampling.steps,
            guidance_scale=asked.sampling.guidance_scale,
            height=64,
            width=64,
            control_image=Image.fromarray(rgb),
            control_mask=Image.fromarray(mask),
            controlnet_conditioning_scale=use.weight,
            generator=torch.Generator("cpu").manual_seed(asked.seeds[0]),
            output_type="latent",
        ).images
    assert relative(result.latents[asked.id, 0], wanted) < RELATIVE
    opaque = run({"tiny": sd3.family}, [request("txt2img", "euler", id="opaque", controls=(use,))])
    assert opaque.failed["opaque"].code == "invalid_request"
    assert "transparent" in opaque.failed["opaque"].message


def test_in_company_networks_of_unlike_depth_share_a_tick(sd3, controls):
    requests = {
        "plain": request("txt2img", "euler"),
        "one": request("txt2img", "dpmpp_2m", controls=(controls["one"].use(1),)),
        "two": request("txt2img", "euler", controls=(controls["two"].use(2, end=0.6),)),
        "large": request("txt2img", "euler", guided=False, controls=(controls["large"].use(3),)),
        "every": request("txt2img", "heun", controls=(controls["every"].use(4, weight=0.3),)),
        "img2img": request("img2img", "euler"),
    }
    requests = long_enough(requests)
    result = run({"tiny": sd3.family}, list(requests.values()))
    assert not result.failed
    assert max(len(batch.rows) for batch in result.batches if batch.phase is Phase.DENOISE) == len(requests), "they never met"
    for name, asked in requests.items():
        wanted, _ = reference(sd3, asked, controls) if asked.controls else plain_reference(sd3, asked)
        assert relative(result.latents[name, 0], wanted) < RELATIVE, name


def test_img2img_has_no_pipeline_to_compare_with_but_is_steered(sd3, controls):
    asked = request("img2img", "euler", controls=(controls["two"].use(),))
    bare = msgspec.structs.replace(asked, id="bare", controls=())
    result = run({"tiny": sd3.family}, [asked, bare])
    assert relative(result.latents[asked.id, 0], result.latents["bare", 0]) > 0.01


@pytest.mark.parametrize("balance", [Balance.PROMPT, Balance.CONTROL])
def test_there_is_nothing_to_fade_over(sd3, controls, balance):
    result = run({"tiny": sd3.family}, [request("txt2img", "euler", id="r", controls=(controls["two"].use(balance=balance),))])
    assert result.failed["r"].code == "unsupported"
    assert result.failed["r"].param == "controls"
