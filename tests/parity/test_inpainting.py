"""Everything a mask can do: equal to diffusers and to the published algorithm, alone and in company."""

import msgspec
import numpy as np
import pytest
import torch
from by_diffusers import mask_of, picture_of
from differential import differential
from diffusers.image_processor import VaeImageProcessor
from driving import run
from PIL import Image, ImageFilter
from test_alone import RELATIVE, relative, request
from tiny_sd3 import LATENTS, TinySD3
from tiny_sdxl import TinyXL

from pipelines.adapters.masks import edited
from pipelines.contract.inpainting import Margins, MaskedContent, Masking
from pipelines.contract.messages import Phase
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import Init, Sampling
from pipelines.contract.samplers import resolve
from pipelines.families.pictures import as_pixels, to_image, to_picture
from pipelines.sampling.samplers import build

WIDE, HIGH = 160, 120


@pytest.fixture(scope="module")
def models(tiny, tiny_inpaint):
    return {
        "sd": tiny,
        "sd-9": tiny_inpaint,
        "sdxl": TinyXL(),
        "sdxl-9": TinyXL(in_channels=9, seed=2),
        "sd3": TinySD3(),
        "sd3-33": TinySD3(in_channels=2 * LATENTS + 1, seed=2),
    }


def grey(image):
    return Picture(width=image.width, height=image.height, mode="L", data=image.tobytes())


def box(width, height, *edges):
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, edges)
    return mask


def soft_of(size, seed):
    """Greys of every strength, some of the area kept and some repainted wholly."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    array = np.clip(np.asarray(small).astype(int) * 2 - 128, 0, 255).astype(np.uint8)
    return Image.fromarray(array)


def ask(init, sampler="euler", **changes):
    return request("inpaint", sampler, guided=True, init=init, **changes)


def theirs(tiny, asked, picture, mask, padding=None):
    """The pixels of diffusers' own inpainting pipeline."""
    pipeline = tiny.pipeline("inpaint")
    if asked.sampling.sampler != "euler" or "FlowMatch" not in type(tiny.scheduler).__name__:
        spec, schedule = resolve(asked.sampling.sampler, asked.sampling.scheduler)
        pipeline.scheduler = build(spec, schedule, tiny.scheduler.config)
    with torch.inference_mode():
        return np.asarray(
            pipeline(
                prompt=asked.prompt,
                negative_prompt=asked.negative_prompt or None,
                image=picture,
                mask_image=mask,
                strength=asked.init.strength,
                width=asked.width,
                height=asked.height,
                num_inference_steps=asked.sampling.steps,
                guidance_scale=asked.sampling.guidance_scale,
                padding_mask_crop=padding,
                generator=torch.Generator("cpu").manual_seed(asked.seeds[0]),
            ).images[0]
        )


def near(found, wanted):
    return np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["sd", "sd-9", "sdxl", "sdxl-9"])
@pytest.mark.parametrize(
    ("edges", "size", "padding"),
    [((50, 40, 90, 70), (64, 64), 12), ((4, 60, 20, 120), (64, 64), 0), ((100, 30, 160, 50), (96, 64), 6)],
    ids=["middle", "at the edge", "wide"],
)
def test_only_masked_equals_padding_mask_crop(models, name, edges, size, padding):
    picture, mask = picture_of(WIDE, HIGH, 5), box(WIDE, HIGH, *edges)
    init = Init(to_picture(picture), 0.7, mask=grey(mask), masking=Masking(only_masked=True, padding=padding))
    asked = ask(init, width=size[0], height=size[1])
    found = run({"tiny": models[name].family}, [asked]).pixels[asked.id, 0]
    assert found.shape == (HIGH, WIDE, 3), "the picture keeps its own size"
    assert near(found, theirs(models[name], asked, picture, mask, padding))
    assert np.array_equal(found[np.asarray(mask) == 0], np.asarray(picture)[np.asarray(mask) == 0])


def test_only_masked_with_sd3_equals_padding_mask_crop():
    """But for the VAE's shift, which diffusers' own pipeline forgets when it decodes: here it is none."""
    tiny = TinySD3()
    tiny.vae.register_to_config(shift_factor=0.0)
    tiny.family.vae.shift = 0.0
    picture, mask = picture_of(WIDE, HIGH, 5), box(WIDE, HIGH, 50, 40, 90, 70)
    init = Init(to_picture(picture), 0.7, mask=grey(mask), masking=Masking(only_masked=True, padding=12))
    asked = ask(init)
    found = run({"tiny": tiny.family}, [asked]).pixels[asked.id, 0]
    assert near(found, theirs(tiny, asked, picture, mask, 12))


@pytest.mark.parametrize("name", ["sd", "sd-9", "sdxl"])
@pytest.mark.parametrize("blur", [2.0, 5.0])
def test_a_blurred_mask_equals_diffusers_blur_and_overlay(models, name, blur):
    picture, mask = picture_of(64, 64, 7), mask_of(64, 64, 7)
    asked = ask(Init(to_picture(picture), 0.7, Resize.STRETCH, grey(mask), Masking(blur=blur)))
    found = run({"tiny": models[name].family}, [asked]).pixels[asked.id, 0]
    processor = VaeImageProcessor()
    blurred = processor.blur(mask, blur)
    made = Image.fromarray(theirs(models[name], asked, picture, blurred))
    assert near(found, np.asarray(processor.apply_overlay(blurred, picture, made)))


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_blurred_mask_on_the_masked_part_equals_diffusers(models, name):
    picture, mask = picture_of(WIDE, HIGH, 5), box(WIDE, HIGH, 50, 40, 90, 70)
    init = Init(to_picture(picture), 0.7, mask=grey(mask), masking=Masking(blur=3, only_masked=True, padding=12))
    asked = ask(init)
    found = run({"tiny": models[name].family}, [asked]).pixels[asked.id, 0]
    assert near(found, theirs(models[name], asked, picture, VaeImageProcessor().blur(mask, 3), 12))


@pytest.mark.parametrize("name", ["sd", "sd-9", "sdxl", "sd3", "sd3-33"])
@pytest.mark.parametrize("invert", [False, True])
def test_an_inverted_mask_is_the_other_mask(models, name, invert):
    picture, mask = picture_of(64, 64, 7), np.asarray(mask_of(64, 64, 7))
    sent = Image.fromarray(255 - mask if invert else mask)
    masking = Masking(invert=invert)
    asked = ask(Init(to_picture(picture), 0.7, Resize.STRETCH, grey(sent), masking))
    plain = ask(Init(to_picture(picture), 0.7, Resize.STRETCH, grey(Image.fromarray(mask))))
    results = [run({"tiny": models[name].family}, [each]).latents[each.id, 0] for each in (asked, plain)]
    assert torch.equal(*results)


@pytest.mark.parametrize("strength", [0.6, 0.9])
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "euler_a", "unipc", "heun", "lms"])
def test_a_soft_mask_equals_the_published_algorithm(tiny, sampler, strength):
    size = 64
    picture, mask = picture_of(size, size, 7), soft_of(size, 7)
    asked = ask(Init(to_picture(picture), strength, Resize.STRETCH, grey(mask), Masking(soft=True)), sampler)
    strengths = torch.nn.functional.interpolate(
        torch.from_numpy(np.asarray(mask) / np.float32(255))[None, None], (8, 8), mode="area"
    )
    assert 0 < (strengths == 0).sum() < (strengths < 1).sum() < 64, "some of each"
    spec, schedule = resolve(sampler, None)
    wanted = differential(
        tiny,
        build(spec, schedule, tiny.scheduler.config),
        as_pixels(picture),
        strengths,
        prompt=asked.prompt,
        negative=asked.negative_prompt,
        steps=asked.sampling.steps,
        guidance=asked.sampling.guidance_scale,
        strength=strength,
        seed=asked.seeds[0],
    )
    found = run({"tiny": tiny.family}, [asked]).latents[asked.id, 0]
    painted = (strengths > 0).expand_as(found)
    assert relative(found[painted], wanted[painted]) < RELATIVE
    assert relative(found, wanted) > RELATIVE or not (~painted).any(), "what is kept wholly, the paper leaves to the last step"


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize(("level", "steps"), [(255, 8), (136, 5), (72, 3), (1, 1)])
def test_an_even_grey_is_img2img_at_that_strength(models, name, level, steps):
    """Of 8 steps, a strength s is worth the last floor(8 s) + 1, and all of them at 1: the paper's inequality."""
    picture = to_picture(picture_of(64, 64, 7))
    # Just below 1, where inpainting begins with the picture; diffusers' flow pipelines round the other way.
    whole, total = (0.999, 8) if name == "sd3" else (0.99, 9)
    mask = grey(Image.new("L", (64, 64), level))
    soft = ask(Init(picture, whole, Resize.STRETCH, mask, Masking(soft=True)), sampling=sampling(steps=total))
    share = steps / total if name == "sd3" else steps / total + 1e-6
    plain = msgspec.structs.replace(soft, id="plain", init=Init(picture, share, Resize.STRETCH))
    result = run({"tiny": models[name].family}, [soft, plain])
    assert relative(result.latents[soft.id, 0], result.latents["plain", 0]) < RELATIVE


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "sd-9", "sd3-33"])
def test_a_soft_mask_of_black_and_white_is_a_plain_one(models, name, strength):
    """To the bit, where its edges lie between latents."""
    picture, mask = to_picture(picture_of(64, 64, 7)), grey(box(64, 64, 16, 8, 48, 40))
    asked = [ask(Init(picture, strength, Resize.STRETCH, mask, Masking(soft=soft), keep_unmasked=True)) for soft in (False, True)]
    plain, soft = (run({"tiny": models[name].family}, [each]) for each in asked)
    assert torch.equal(plain.latents[asked[0].id, 0], soft.latents[asked[1].id, 0])
    assert np.array_equal(plain.pixels[asked[0].id, 0], soft.pixels[asked[1].id, 0])


@pytest.mark.parametrize("name", ["sd-9", "sdxl-9", "sd3-33"])
def test_a_network_with_mask_channels_takes_a_soft_mask_too(models, name):
    """The darker a pixel the nearer it stays to the picture, which a plain mask of the same shape repaints alike."""
    picture, greys = picture_of(64, 64, 7), np.zeros((64, 64), dtype=np.uint8)
    greys[8:56, 8:32], greys[8:56, 32:56] = 40, 255
    whole = Image.fromarray(np.where(greys > 0, 255, 0).astype(np.uint8))
    soft = ask(Init(to_picture(picture), 1.0, mask=grey(Image.fromarray(greys)), masking=Masking(soft=True)), id="soft")
    plain = ask(Init(to_picture(picture), 1.0, mask=grey(whole)), id="plain")
    result = run({"tiny": models[name].family}, [soft, plain])
    original = tiny_latents(models[name], picture)
    distances = {
        (asked.id, level): float((result.latents[asked.id, 0] - original)[..., 1:7, columns].abs().mean())
        for asked in (soft, plain)
        for level, columns in (("dark", slice(1, 4)), ("white", slice(4, 7)))
    }
    assert distances["soft", "dark"] < 0.5 * distances["plain", "dark"]
    assert distances["soft", "white"] > 0.5 * distances["plain", "white"]


def tiny_latents(tiny, picture):
    with torch.inference_mode():
        return tiny.family.vae.scaled(tiny.family.vae.moments(as_pixels(picture))[0].mean)


def masks(size=64):
    """Hard, blurred, soft, grown, shrunk: everything that leaves part of the picture alone."""
    hard = grey(box(size, size, 20, 12, 46, 40))
    soft = grey(box(size, size, 20, 12, 46, 40).filter(ImageFilter.GaussianBlur(3)))
    yield "hard", hard, Masking()
    yield "blurred", hard, Masking(blur=2)
    yield "grown", hard, Masking(grow=3, blur=1)
    yield "shrunk", hard, Masking(grow=-3, blur=1)
    yield "inverted", hard, Masking(invert=True, blur=1)
    yield "soft", soft, Masking(soft=True)
    yield "soft and blurred", hard, Masking(soft=True, blur=2)
    yield "filled", hard, Masking(content=MaskedContent.FILL)


@pytest.mark.parametrize("only_masked", [False, True], ids=["whole", "only masked"])
@pytest.mark.parametrize("name", ["sd", "sd-9", "sd3"])
@pytest.mark.parametrize(("mask", "masking"), [pytest.param(*rest, id=name) for name, *rest in masks()])
def test_what_is_kept_is_the_input_to_the_bit(models, name, mask, masking, only_masked):
    picture = picture_of(64, 64, 9)
    masking = msgspec.structs.replace(masking, only_masked=only_masked, padding=8)
    asked = ask(Init(to_picture(picture), 1.0, Resize.CROP, mask, masking, keep_unmasked=True), sampling=sampling(steps=2))
    found = run({"tiny": models[name].family}, [asked]).pixels[asked.id, 0]
    final = np.asarray(edited(to_image(mask), masking))
    assert (final == 0).any()
    assert np.array_equal(found[final == 0], np.asarray(picture)[final == 0])
    assert np.abs(found[final == 255].astype(int) - np.asarray(picture)[final == 255]).mean() > 5, "the rest is new"


MARGINS = Margins(left=20, top=4, right=28, bottom=36)


@pytest.mark.parametrize("only_masked", [False, True], ids=["whole", "only masked"])
@pytest.mark.parametrize("name", ["sd", "sd-9", "sdxl", "sd3", "sd3-33"])
@pytest.mark.parametrize("masking", [Masking(), Masking(blur=2), Masking(blur=2, soft=True)], ids=["hard", "blurred", "soft"])
def test_an_outpainted_picture_has_its_margins_and_the_input_to_the_bit(models, name, masking, only_masked):
    picture = picture_of(48, 56, 9)
    masking = msgspec.structs.replace(masking, only_masked=only_masked)
    init = Init(to_picture(picture), 1.0, masking=masking, outpaint=MARGINS, keep_unmasked=True)
    size = (64, 64) if only_masked else MARGINS.around(48, 56)
    asked = ask(init, width=size[0], height=size[1], sampling=sampling(steps=2))
    assert asked.finished_size == (96, 96)
    found = run({"tiny": models[name].family}, [asked]).pixels[asked.id, 0]
    assert found.shape == (96, 96, 3)
    ramp = 10 if masking.blur else 0
    inner = found[4 + ramp : 60 - ramp, 20 + ramp : 68 - ramp]
    assert np.array_equal(inner, np.asarray(picture)[ramp : 56 - ramp, ramp : 48 - ramp])


def company():
    """A tick of unlike company: name, prompt and init of each row."""
    picture, wide = to_picture(picture_of(64, 64, 7)), to_picture(picture_of(WIDE, HIGH, 5))
    hard, soft = grey(mask_of(64, 64, 7)), grey(soft_of(64, 7))
    part = grey(box(WIDE, HIGH, 50, 40, 90, 70))
    small = to_picture(picture_of(48, 40, 3))
    yield "plain", "euler", Init(picture, 0.7, mask=hard)
    yield "kept", "dpmpp_2m", Init(picture, 1.0, mask=hard, masking=Masking(blur=2), keep_unmasked=True)
    yield "soft", "ddim", Init(picture, 0.8, mask=soft, masking=Masking(soft=True))
    yield "soft-sde", "dpmpp_2m_sde", Init(picture, 1.0, mask=soft, masking=Masking(soft=True), keep_unmasked=True)
    yield "only", "euler_a", Init(wide, 0.7, mask=part, masking=Masking(only_masked=True, padding=12))
    yield "only-soft", "heun", Init(wide, 0.7, mask=part, masking=Masking(only_masked=True, soft=True, blur=3))
    yield "outpaint", "unipc", Init(small, 1.0, outpaint=Margins(8, 12, 8, 12), masking=Masking(blur=2))
    yield "outpaint-only", "euler", Init(wide, 1.0, outpaint=Margins(right=32), masking=Masking(only_masked=True))
    yield "filled", "lms", Init(picture, 1.0, mask=hard, masking=Masking(content=MaskedContent.FILL, grow=2))
    yield "noise", "deis", Init(picture, 0.9, mask=hard, masking=Masking(content=MaskedContent.LATENT_NOISE))
    yield "nothing", "euler", Init(picture, 0.9, mask=hard, masking=Masking(content=MaskedContent.LATENT_NOTHING))
    yield "txt2img", "euler_a", None
    yield "img2img", "dpmpp_2m", Init(picture, 0.6)


@pytest.mark.parametrize("name", ["sd", "sd-9"])
def test_in_company_each_is_what_it_is_alone(models, name):
    family = models[name].family
    requests = [
        ask(init, sampler, id=id_, seeds=(seed,), sampling=sampling(sampler=sampler, steps=6 + seed % 4))
        for seed, (id_, sampler, init) in enumerate(company())
    ]
    together = run({"tiny": family}, requests, join=[index % 5 for index in range(len(requests))], max_rows=32)
    assert not together.failed
    assert max(batch.size for batch in together.batches if batch.phase is Phase.DENOISE) >= 20, "they never met"
    for asked in requests:
        alone = run({"tiny": family}, [asked])
        assert relative(together.latents[asked.id, 0], alone.latents[asked.id, 0]) < RELATIVE, asked.id
        assert near(together.pixels[asked.id, 0], alone.pixels[asked.id, 0]), asked.id


def test_images_of_one_request_share_the_preparation_and_differ_in_noise(models):
    init = Init(to_picture(picture_of(48, 40, 3)), 1.0, outpaint=Margins(8, 12, 8, 12), masking=Masking(blur=2))
    result = run({"tiny": models["sd"].family}, [ask(init, id="all", seeds=(3, 4))])
    for image, seed in enumerate((3, 4)):
        one = run({"tiny": models["sd"].family}, [ask(init, id="one", seeds=(seed,))])
        assert relative(result.latents["all", image], one.latents["one", 0]) < RELATIVE


@pytest.mark.parametrize("content", [MaskedContent.FILL, MaskedContent.LATENT_NOISE, MaskedContent.LATENT_NOTHING])
@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", ["sd", "sd-9"])
def test_what_stands_inside_the_mask_is_seen_at_every_strength(models, name, strength, content):
    picture, mask = to_picture(picture_of(64, 64, 7)), grey(mask_of(64, 64, 7))
    found = []
    for each in (MaskedContent.ORIGINAL, content):
        asked = ask(Init(picture, strength, mask=mask, masking=Masking(content=each)), id=each)
        found.append(run({"tiny": models[name].family}, [asked]).latents[each, 0])
    assert relative(*found) > 10 * RELATIVE


@pytest.mark.parametrize(
    ("init", "param"),
    [
        ({"masking": Masking(blur=3)}, "mask"),
        ({"masking": Masking(only_masked=True)}, "mask"),
        ({"outpaint": Margins()}, "outpaint"),
        ({"outpaint": Margins(left=-8)}, "outpaint"),
        ({"outpaint": Margins(left=5000)}, "outpaint"),
        ({"outpaint": Margins(left=8), "masking": Masking(invert=True)}, "mask_invert"),
        ({"mask": b"\x00"}, "mask"),
        ({"mask": b"\x7f"}, "mask"),
        ({"mask": b"\xff", "masking": Masking(invert=True)}, "mask"),
        ({"mask": b"\xff", "masking": Masking(blur=-1)}, "mask_blur"),
        ({"mask": b"\xff", "masking": Masking(blur=1000)}, "mask_blur"),
        ({"mask": b"\xff", "masking": Masking(grow=10_000)}, "mask_grow"),
        ({"mask": b"\xff", "masking": Masking(padding=-1)}, "mask_padding"),
    ],
)
def test_what_makes_no_sense_is_refused(models, init, param):
    if "mask" in init:
        init = init | {"mask": Picture(width=64, height=64, mode="L", data=init["mask"] * 64 * 64)}
    asked = ask(Init(to_picture(picture_of(64, 64, 7)), 0.5, **init))
    error = run({"tiny": models["sd"].family}, [asked]).failed[asked.id]
    assert (error.code, error.param) == ("invalid_request", param)


def test_a_canvas_past_all_bounds_is_refused(models):
    white = Picture(width=6000, height=1, mode="RGB", data=b"\xff" * 18_000)
    asked = ask(Init(white, 0.5, outpaint=Margins(4096, 4096, 4096, 4096)))
    error = run({"tiny": models["sd"].family}, [asked]).failed[asked.id]
    assert (error.code, error.param) == ("too_large", "outpaint")


def sampling(**changes):
    return Sampling(**{"sampler": "euler", "steps": 8, "guidance_scale": 4.5} | changes)
