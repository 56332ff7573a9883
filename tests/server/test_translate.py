import itertools
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contract.catalog import Defaults, Limits, ModelCard, Schedule
from pipelines.contract.errors import InvalidRequest, TooLarge, UnknownModel, UnknownSampler, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.picture import Picture
from pipelines.contract.request import Refiner, SkipLayers
from server.api.openai.schemas import GenerateBody, ImageOptions
from server.api.openai.translate import MAX_SEED, edit, generation, response_form, steps_for
from server.api.orders import Supplied
from server.catalog.catalog import Catalog
from server.catalog.sizes import fit
from server.domain.asset import Delivery, Format
from server.gateway.finish import parameters

CARD = ModelCard(
    id="m",
    source="fake:",
    family=Family.FAKE,
    defaults=Defaults(width=256, height=192, steps=20, guidance=5.0, sampler="euler_a", negative_prompt="ugly", strength=0.6),
    limits=Limits(max_pixels=512 * 512, max_steps=60, max_images=4, min_side=64),
    qualities={"low": 8, "high": 40},
)
CATALOG = Catalog("m", MappingProxyType({"m": CARD}), MappingProxyType({"dall-e-3": "m"}))


def ask(**fields):
    return generation(ImageOptions(**{"prompt": "a cat", **fields}), CATALOG, job_id="j", tenant="t", draw=lambda: 77)


def edited(picture=None, mask=None, **fields):
    body = ImageOptions(**{"prompt": "a cat", **fields})
    return edit(body, CATALOG, Supplied(picture or grey(300, 200), mask), job_id="j", tenant="t", draw=lambda: 77)


def grey(width, height, mode="RGB"):
    return Picture(width, height, mode, b"\x80" * (width * height * len(mode)))


def test_the_card_fills_what_is_not_said():
    asked = ask()
    request = asked.order.request
    assert (request.id, request.model, request.width, request.height, request.seeds) == ("j", "m", 256, 192, (77,))
    assert request.negative_prompt == "ugly"
    assert (request.sampling.sampler, request.sampling.steps, request.sampling.guidance_scale) == ("euler_a", 20, 5.0)
    assert request.init is None
    assert request.preview_every == 0
    assert asked.order.delivery == Delivery(Format.PNG)
    assert asked.order.tenant == "t"


def test_what_is_said_wins():
    request = ask(
        negative_prompt="", seed=5, n=2, steps=3, guidance_scale=1.5, sampler="DPM++ 2M Karras", size="64x512", clip_skip=1
    ).order.request
    assert request.negative_prompt == ""
    assert request.seeds == (5, 6)
    assert (request.sampling.sampler, request.sampling.scheduler, request.sampling.steps) == ("dpmpp_2m", "karras", 3)
    assert (request.width, request.height, request.clip_skip) == (64, 512, 1)


def test_the_card_s_refiner_finishes_every_image():
    refiner = Refiner("finisher", 0.7)
    card = msgspec.structs.replace(CARD, defaults=msgspec.structs.replace(CARD.defaults, refiner=refiner))
    finisher = msgspec.structs.replace(CARD, id="finisher")
    catalog = Catalog("m", MappingProxyType({"m": card, "finisher": finisher}))
    body = ImageOptions(prompt="a cat")
    drawn = generation(body, catalog, job_id="j", tenant="t", draw=lambda: 77).order.request
    changed = edit(body, catalog, Supplied(grey(300, 200)), job_id="j", tenant="t", draw=lambda: 77).order.request
    assert drawn.refiner == changed.refiner == refiner
    assert drawn.models == ("m", "finisher")
    assert ask().order.request.refiner is None


def test_a_style_surrounds_the_prompt_and_leaves_it_as_it_was_sent():
    request = ask(style_preset="line-art", prompt="a {cat} {prompt}").order.request
    assert request.prompt == "a {cat} {prompt}"
    assert request.styled_prompt.startswith("line art of a {cat} {prompt}, ")
    assert request.styled_negative.startswith("ugly, colour")
    assert parameters(request, 7).startswith("a {cat} {prompt}\nNegative prompt: ugly\n")
    assert "Style: line-art" in parameters(request, 7)
    assert edited(style_preset="line-art").order.request.style == request.style
    for none in (None, ""):
        bare = ask(style_preset=none, negative_prompt="").order.request
        assert (bare.styled_prompt, bare.styled_negative, bare.style) == ("a cat", "", None)


def test_openai_s_own_style_is_taken_and_ignored():
    body = msgspec.json.decode(b'{"prompt": "a cat", "style": "vivid"}', type=GenerateBody)
    assert generation(body, CATALOG, job_id="j", tenant="t", draw=lambda: 77).order == ask().order


def carded(card, **fields):
    catalog = Catalog("m", MappingProxyType({"m": card}))
    body = ImageOptions(**{"prompt": "a cat", **fields})
    return generation(body, catalog, job_id="j", tenant="t", draw=lambda: 77).order.request


def test_the_card_s_clip_skip_rescale_and_embedded_guidance_reach_the_request():
    card = msgspec.structs.replace(
        CARD,
        embedded_guidance=True,
        defaults=msgspec.structs.replace(CARD.defaults, clip_skip=1, guidance_rescale=0.7),
    )
    request = carded(card)
    assert (request.clip_skip, request.sampling.guidance_rescale, request.sampling.embedded_guidance) == (1, 0.7, True)
    assert not request.sampling.guided
    request = carded(card, clip_skip=0, guidance_rescale=0.0)
    assert (request.clip_skip, request.sampling.guidance_rescale) == (0, 0.0)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_guidance_rescale_is_a_share(value):
    with pytest.raises(InvalidRequest, match="guidance_rescale"):
        ask(guidance_rescale=value)


def test_samplers_that_cannot_run_the_card_s_schedule_are_refused():
    card = msgspec.structs.replace(CARD, schedule=Schedule(zero_snr=True))
    assert carded(card, sampler="ddim").sampling.sampler == "ddim"
    with pytest.raises(Unsupported, match="zero terminal"):
        carded(card, sampler="heun")
    card = msgspec.structs.replace(CARD, schedule=Schedule(prediction_type="v_prediction"))
    with pytest.raises(Unsupported, match="v_prediction"):
        carded(card, sampler="ipndm")


def test_seeds_wrap_around():
    assert ask(seed=MAX_SEED, n=3).order.request.seeds == (MAX_SEED, 0, 1)


@pytest.mark.parametrize(
    ("quality", "steps"),
    [
        (None, 20),
        ("auto", 20),
        ("low", 8),
        ("medium", 20),
        ("standard", 20),
        ("high", 40),
        ("hd", 40),
        ("xhigh", 40),
        ("max", 40),
        ("HIGH", 40),
        ("ultra", 20),
    ],
)
def test_quality_is_steps(quality, steps):
    assert steps_for(quality, CARD) == steps
    assert ask(quality=quality).order.request.sampling.steps == steps


def test_quality_without_presets_stays_within_limits():
    bare = msgspec.structs.replace(CARD, qualities={}, limits=Limits(max_steps=25))
    assert [steps_for(word, bare) for word in ("low", "medium", "high", "max")] == [10, 20, 25, 25]


def test_explicit_steps_beat_quality():
    assert ask(quality="high", steps=2).order.request.sampling.steps == 2


@pytest.mark.parametrize(
    ("explicit", "model", "form"),
    [
        (None, None, "b64_json"),
        (None, "m", "b64_json"),
        (None, "gpt-image-1", "b64_json"),
        (None, "dall-e-2", "url"),
        (None, "dall-e-3", "url"),
        ("b64_json", "dall-e-3", "b64_json"),
        ("url", "m", "url"),
    ],
)
def test_response_form(explicit, model, form):
    assert response_form(explicit, model) == form


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"prompt": ""}, InvalidRequest, "prompt"),
        ({"style_preset": "vivid"}, InvalidRequest, "style_preset"),
        ({"prompt": "x" * 32_001}, InvalidRequest, "prompt"),
        ({"negative_prompt": "x" * 32_001}, InvalidRequest, "negative_prompt"),
        ({"model": "gone"}, UnknownModel, "model"),
        ({"size": "100x100"}, InvalidRequest, "size"),
        ({"size": "127x1"}, InvalidRequest, "size"),
        ({"size": "56x64"}, InvalidRequest, "size"),
        ({"size": "-8x64"}, InvalidRequest, "size"),
        ({"size": "520x512"}, TooLarge, "size"),
        ({"size": "square"}, InvalidRequest, "size"),
        ({"n": 0}, InvalidRequest, "n"),
        ({"n": 5}, TooLarge, "n"),
        ({"steps": 0}, InvalidRequest, "steps"),
        ({"steps": 10**9}, TooLarge, "steps"),
        ({"seed": -1}, InvalidRequest, "seed"),
        ({"seed": 2**64}, TooLarge, "seed"),
        ({"guidance_scale": -0.1}, InvalidRequest, "guidance_scale"),
        ({"guidance_scale": float("nan")}, InvalidRequest, "guidance_scale"),
        ({"guidance_scale": float("inf")}, InvalidRequest, "guidance_scale"),
        ({"sampler": "magic"}, UnknownSampler, "sampler"),
        ({"scheduler": "karras"}, Unsupported, "scheduler"),
        ({"clip_skip": 12}, TooLarge, "clip_skip"),
        ({"response_format": "hex"}, InvalidRequest, "response_format"),
        ({"output_format": "svg"}, Unsupported, "output_format"),
        ({"output_format": "png", "output_compression": 3}, InvalidRequest, "output_compression"),
        ({"output_format": "webp", "output_compression": 101}, TooLarge, "output_compression"),
        ({"background": "transparent"}, Unsupported, "background"),
        ({"stream": True, "partial_images": 4}, TooLarge, "partial_images"),
    ],
)
def test_refusals_name_the_field(fields, kind, param):
    with pytest.raises(kind) as caught:
        ask(**fields)
    assert caught.value.param == param


def test_delivery():
    assert ask(output_format="jpg").order.delivery == Delivery(Format.JPEG)
    assert ask(output_format="webp", output_compression=0).order.delivery == Delivery(Format.WEBP, 0)
    assert ask(output_compression=100).order.delivery == Delivery(Format.PNG)


def test_previews_only_in_streams():
    assert ask(partial_images=3).order.request.preview_every == 0
    asked = ask(partial_images=3, stream=True, steps=20)
    assert (asked.stream, asked.partial_images, asked.order.request.preview_every) == (True, 3, 5)


def test_edit_without_mask_starts_from_the_picture():
    init = edited().order.request.init
    assert (init.strength, init.mask, init.keep_unmasked) == (0.6, None, False)


def test_edit_with_mask_renews_the_inside_and_keeps_the_outside():
    mask = grey(300, 200, "L")
    init = edited(mask=mask).order.request.init
    assert (init.strength, init.mask, init.keep_unmasked) == (1.0, mask, True)
    assert edited(mask=mask, strength=0.5).order.request.init.strength == 0.5


def test_edit_refuses_a_strength_that_leaves_no_step():
    with pytest.raises(InvalidRequest, match="none of the 5 steps is left") as caught:
        edited(strength=0.1, steps=5)
    assert caught.value.param == "strength"


def test_refuses_more_steps_than_the_sampler_has():
    with pytest.raises(InvalidRequest, match="at most 50 steps") as caught:
        ask(sampler="lcm", steps=51)
    assert caught.value.param == "steps"


@pytest.mark.parametrize("strength", [0, -1, 1.01, float("nan")])
def test_edit_refuses_strength(strength):
    with pytest.raises(InvalidRequest, match="strength"):
        edited(strength=strength)


def test_edit_refuses_a_mask_of_another_size_and_a_sampler_without_img2img():
    with pytest.raises(InvalidRequest, match="'mask' is 64x64, 'image' 300x200"):
        edited(mask=grey(64, 64, "L"))
    with pytest.raises(Unsupported, match="cannot start from a picture"):
        edited(sampler="ipndm")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 200), (304, 200)),
        ((512, 512), (512, 512)),
        ((1024, 1024), (512, 512)),
        ((4000, 1000), (1024, 256)),
        ((10, 10), (64, 64)),
        ((1, 4000), (64, 4096)),
    ],
)
def test_edit_size_follows_the_picture(size, expected):
    assert fit(*size, CARD) == expected


@given(st.integers(1, 60_000), st.integers(1, 60_000))
def test_fit_is_always_a_legal_size(width, height):
    fitted = fit(width, height, CARD)
    assert all(side % 8 == 0 and side >= 64 for side in fitted)
    assert fitted[0] * fitted[1] <= CARD.limits.max_pixels
    assert ask(size=f"{fitted[0]}x{fitted[1]}").order.request.width == fitted[0]


maybe = st.none()


@given(
    st.builds(
        ImageOptions,
        prompt=st.text(max_size=40),
        n=maybe | st.integers(-2, 12),
        size=maybe | st.sampled_from(["auto", "64x64", "1x1", "256x256", "x", "9999x9999"]),
        quality=maybe | st.text(max_size=6),
        steps=maybe | st.integers(-1, 100),
        seed=maybe | st.integers(-5, 2**65),
        guidance_scale=maybe | st.floats(),
        sampler=maybe | st.sampled_from(["Euler a", "ddim", "DPM++ 2M Karras", "", "k_lms"]),
        scheduler=maybe | st.sampled_from(["karras", "simple", "none", ""]),
        strength=maybe | st.floats(),
        output_format=maybe | st.sampled_from(["png", "jpeg", "webp", "gif"]),
        output_compression=maybe | st.integers(-1, 101),
    ),
    st.booleans(),
)
def test_any_body_gives_a_lawful_request_or_a_named_refusal(body, with_picture):
    try:
        if with_picture:
            asked = edit(body, CATALOG, Supplied(grey(128, 64)), job_id="j", tenant="t", draw=lambda: 1)
        else:
            asked = generation(body, CATALOG, job_id="j", tenant="t", draw=lambda: 1)
    except InvalidRequest as error:
        assert error.param is not None  # noqa: PT017 - a refusal is one of two lawful outcomes
        return
    request, limits = asked.order.request, CARD.limits
    assert request.width * request.height <= limits.max_pixels
    assert 1 <= request.sampling.steps <= limits.max_steps
    assert 1 <= len(request.seeds) <= limits.max_images
    assert all(0 <= seed <= MAX_SEED for seed in request.seeds)
    assert len(set(request.seeds)) == len(request.seeds)
    assert all(b == (a + 1) & MAX_SEED for a, b in itertools.pairwise(request.seeds))


SD3 = msgspec.structs.replace(
    CARD,
    family=Family.SD3,
    defaults=Defaults(width=256, height=192, steps=20, sampler="euler", skip_layers=SkipLayers((7, 8, 9))),
)
SD3_CATALOG = Catalog("m", MappingProxyType({"m": SD3}))


def ask_sd3(**fields):
    return generation(ImageOptions(**{"prompt": "a cat", **fields}), SD3_CATALOG, job_id="j", tenant="t", draw=lambda: 77)


def test_a_flow_model_takes_its_own_samplers_only():
    sampling = ask_sd3(sampler="DPM++ 2M", steps=3).order.request.sampling
    assert (sampling.sampler, sampling.scheduler) == ("dpmpp_2m", None)
    assert ask_sd3(sampler="lcm", steps=60).order.request.sampling.steps == 60
    with pytest.raises(Unsupported, match="these can: euler, heun"):
        ask_sd3(sampler="ddim")
    with pytest.raises(Unsupported, match="it takes automatic"):
        ask_sd3(sampler="DPM++ 2M Karras")


def test_skip_layers_come_from_the_card():
    assert ask_sd3().order.request.sampling.skip_layers == SkipLayers((7, 8, 9))
    assert ask().order.request.sampling.skip_layers is None


def test_sides_are_multiples_of_what_the_transformer_is_cut_into():
    assert ask_sd3(size="272x96").order.request.width == 272
    with pytest.raises(InvalidRequest, match="multiples of 16"):
        ask_sd3(size="264x96")


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_a_fitted_size_is_one_the_transformer_takes(width, height):
    fitted = fit(width, height, SD3)
    assert not fitted[0] % 16
    assert not fitted[1] % 16
    assert fitted[0] * fitted[1] <= SD3.limits.max_pixels or min(fitted) == SD3.limits.min_side
