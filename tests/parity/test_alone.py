"""Every sampler x {txt2img, img2img, inpaint} x {guided, unguided}: equal to diffusers' own pipeline run alone."""

import numpy as np
import pytest
from by_diffusers import mask_of, picture_of, reference
from driving import run
from tiny import Tiny

from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import ImageRequest, Init, Sampling
from pipelines.contract.samplers import SAMPLERS
from pipelines.families.pictures import to_picture

KINDS = ("txt2img", "img2img", "inpaint")
RELATIVE = 1e-4


def request(
    kind: str, sampler: str, *, guided: bool, seed: int = 7, scheduler: str | None = None, **changes: object
) -> ImageRequest:
    size = 64
    init = None
    if kind != "txt2img":
        mask = mask_of(size, size, seed)
        init = Init(
            picture=to_picture(picture_of(size, size, seed)),
            strength=0.6,
            resize=Resize.STRETCH,
            mask=None if kind == "img2img" else Picture(width=size, height=size, mode="L", data=mask.tobytes()),
        )
    fields = {
        "id": f"{kind}-{sampler}-{guided}-{seed}",
        "model": "tiny",
        "prompt": "a large red circle on a blue background",
        "negative_prompt": "a square" if guided else "",
        "width": size,
        "height": size,
        "seeds": (seed,),
        "sampling": Sampling(sampler=sampler, steps=8, guidance_scale=4.5 if guided else 1.0, scheduler=scheduler),
        "init": init,
    }
    return ImageRequest(**(fields | changes))


def relative(found: object, wanted: object) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def check(tiny: Tiny, asked: ImageRequest) -> None:
    result = run({"tiny": tiny.family}, [asked])
    assert not result.failed
    latents, pixels = reference(tiny, asked)
    assert relative(result.latents[asked.id, 0], latents) < RELATIVE
    assert np.abs(result.pixels[asked.id, 0].astype(int) - pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", [spec.id for spec in SAMPLERS])
def test_alone_equals_diffusers(tiny, sampler, kind, guided):
    asked = request(kind, sampler, guided=guided)
    spec = next(spec for spec in SAMPLERS if spec.id == sampler)
    if kind != "txt2img" and not spec.img2img:
        result = run({"tiny": tiny.family}, [asked])
        assert result.failed[asked.id].code == "unsupported"
        with pytest.raises(AttributeError):
            reference(tiny, asked)
        return
    check(tiny, asked)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [(spec.id, name) for spec in SAMPLERS for name in sorted(spec.schedulers)],
)
def test_every_schedule_equals_diffusers(tiny, sampler, scheduler):
    check(tiny, request("txt2img", sampler, guided=True, scheduler=scheduler))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim", "pndm", "unipc", "dpmpp_2m_sde", "lcm"])
def test_v_prediction_equals_diffusers(tiny_v, sampler, kind):
    check(tiny_v, request(kind, sampler, guided=True))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m", "ddim", "heun"])
def test_nine_channel_inpainting_equals_diffusers(tiny_inpaint, sampler, strength):
    asked = request("inpaint", sampler, guided=True)
    init = asked.init
    check(
        tiny_inpaint,
        request(
            "inpaint",
            sampler,
            guided=True,
            init=Init(picture=init.picture, strength=strength, resize=init.resize, mask=init.mask),
        ),
    )


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
@pytest.mark.parametrize("sampler", ["euler", "euler_a", "ddim", "dpmpp_2m"])
def test_full_strength_equals_diffusers(tiny, sampler, kind):
    asked = request(kind, sampler, guided=True)
    check(tiny, request(kind, sampler, guided=True, init=Init(asked.init.picture, 1.0, Resize.STRETCH, asked.init.mask)))


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_equals_diffusers(tiny, clip_skip):
    check(tiny, request("txt2img", "euler", guided=True, clip_skip=clip_skip))


def test_stretched_picture_equals_diffusers(tiny):
    asked = request("inpaint", "euler", guided=True)
    init = Init(
        picture=to_picture(picture_of(80, 48, 3)),
        strength=0.7,
        resize=Resize.STRETCH,
        mask=Picture(width=80, height=48, mode="L", data=mask_of(80, 48, 3).tobytes()),
    )
    check(tiny, request("inpaint", "euler", guided=True, init=init, id=asked.id))


def test_several_images_equal_one_by_one(tiny):
    asked = request("img2img", "euler_a", guided=True, seeds=(3, 4, 5))
    result = run({"tiny": tiny.family}, [asked])
    for image in range(3):
        latents, _ = reference(tiny, asked, image)
        assert relative(result.latents[asked.id, image], latents) < RELATIVE
