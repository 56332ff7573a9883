"""Everything that shapes a picture, from options into a request: pure."""

from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipelines.contract.adapters import ControlCard, ControlKind, LoraCard, ReferenceCard, UpscalerCard
from pipelines.contract.catalog import Defaults, Emphasis, Limits, ModelCard
from pipelines.contract.control import Balance, ControlUse, LoraUse, ReferenceUse
from pipelines.contract.enlarging import Enlarger, Hires, Tiles, Upscale
from pipelines.contract.errors import InvalidRequest, TooLarge, UnknownModel, Unsupported
from pipelines.contract.family import Family
from pipelines.contract.inpainting import Margins, MaskedContent, Masking
from pipelines.contract.loras import extract
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import Refiner, SizeConditioning, SkipLayers, Style
from server.api.bodies import from_json
from server.api.native.bodies import GenerateRequest
from server.api.native.generating import generation
from server.api.orders import Supplied
from server.catalog.catalog import Catalog
from server.catalog.styles import PRESETS
from server.domain.asset import Delivery, Format
from server.gateway.finish import parameters

CARD = ModelCard(
    id="m",
    source="fake:",
    family=Family.SD,
    defaults=Defaults(width=256, height=192, steps=20, guidance=5.0, sampler="euler_a", strength=0.6),
    limits=Limits(max_pixels=512 * 512, max_steps=60, max_images=4, min_side=64),
)
PAPER = LoraCard("Paper Cut", "file:/paper", Family.SD, weight=0.7)
INK = LoraCard("ink", "file:/ink", Family.SD)
XL = LoraCard("glow", "file:/glow", Family.SDXL)
CANNY = ControlCard("canny", "dir:/canny", Family.SD, preprocessor="canny")
POSES = ControlCard("poses", "dir:/poses", Family.SD)
UNION = ControlCard("union", "dir:/union", Family.SD, ControlKind.UNION, modes={"pose": 0, "depth": 1})
PLUS = ReferenceCard("plus", "file:/plus", Family.SD)
SHARP = UpscalerCard("Sharp", "file:/sharp")


def folded(*cards):
    return MappingProxyType({card.name.casefold(): card for card in cards})


CATALOG = Catalog(
    "m",
    MappingProxyType(
        {
            "m": CARD,
            "plain": replace(CARD, id="plain", emphasis=Emphasis.NONE),
            "finisher": replace(CARD, id="finisher"),
            "refined": replace(CARD, id="refined", defaults=replace(CARD.defaults, refiner=Refiner("finisher"))),
            "xl": replace(CARD, id="xl", family=Family.SDXL),
            "flow": replace(CARD, id="flow", family=Family.SD3, defaults=replace(CARD.defaults, sampler="euler")),
        }
    ),
    aliases=MappingProxyType({"other": "finisher"}),
    styles=MappingProxyType(
        {
            **PRESETS,
            "cut": Style("cut", "<lora:paper cut:0.5>{prompt}, cut out", "flat<lora:ink>"),
            "xl": Style("xl", "<lora:glow>{prompt}"),
        }
    ),
    loras=folded(PAPER, INK, XL, *(LoraCard(f"l{index}", "file:/l", Family.SD) for index in range(9))),
    controlnets=folded(CANNY, POSES, UNION),
    ip_adapters=folded(PLUS),
    upscalers=folded(SHARP),
)


def picture(width=256, height=192, mode="RGB"):
    return Picture(width, height, mode, b"\x80" * (width * height * len(mode)))


DOT = picture(8, 8)


def supplied(options, image, mask):
    """A dot for each picture that the options are about."""
    references = [("dot",) * (len(each.images) if each.images else 1) for each in options.references or ()]
    return Supplied(image, mask, (DOT,) * len(options.controls or ()), tuple((DOT,) * len(each) for each in references))


def ordered(*, image=None, mask=None, **fields):
    options = from_json(msgspec.json.encode({"prompt": "a cat", **fields}), GenerateRequest)
    found = generation(options, CATALOG, supplied(options, image, mask), job_id="j", tenant="t", draw=lambda: 77)
    return found.order


def asked(**fields):
    return ordered(**fields).request


def refused(**fields):
    with pytest.raises(InvalidRequest) as caught:
        ordered(**fields)
    return caught.value


# LoRAs


def uses(**fields):
    return {use.card.name: (use.weight, use.text_weight) for use in asked(**fields).loras}


def test_loras_by_key_in_every_spelling():
    listed = [{"name": "paper CUT"}, "ink:-0.5", {"name": "l0", "weight": 0.4, "text_weight": 0}, "l1:0.2:0.9"]
    assert uses(loras=listed) == {"Paper Cut": (0.7, 0.7), "ink": (-0.5, -0.5), "l0": (0.4, 0.0), "l1": (0.9, 0.2)}
    assert uses(loras="ink:0.5, paper cut") == {"ink": (0.5, 0.5), "Paper Cut": (0.7, 0.7)}
    assert asked(loras=["ink"]).loras == (LoraUse(INK),)
    assert asked(loras=[]).loras == asked().loras == ()


def test_tags_become_uses_and_leave_the_texts():
    request = asked(prompt="a <lora:Paper Cut>cat<lora:ink:0.2:0.9>", negative_prompt="<lora:l0:-1>dull", sampler="euler")
    assert (request.prompt, request.negative_prompt) == ("a cat", "dull")
    assert request.loras == (LoraUse(PAPER, 0.7, 0.7), LoraUse(INK, 0.9, 0.2), LoraUse(CATALOG.loras["l0"], -1.0, -1.0))


def test_a_tag_that_says_half_leaves_the_rest_to_the_card():
    assert uses(prompt="<lora:paper cut:unet=0.2> x") == {"Paper Cut": (0.2, 0.7)}


def test_tags_count_where_emphasis_does_not():
    request = asked(model="plain", prompt="(a) <lora:ink>")
    assert (request.prompt, request.loras) == ("(a) ", (LoraUse(INK),))


def test_of_two_tags_the_last_wins_and_a_key_beats_them_all():
    assert uses(prompt="<lora:ink:1><lora:INK:0.3> x") == {"ink": (0.3, 0.3)}
    assert uses(prompt="<lora:ink:1> x", negative_prompt="<lora:ink:0.4>") == {"ink": (0.4, 0.4)}
    assert uses(prompt="<lora:ink:1> x", loras=["ink:0.1"]) == {"ink": (0.1, 0.1)}
    assert uses(prompt="<lora:paper cut:1> x", style_preset="cut") == {"Paper Cut": (1.0, 1.0), "ink": (1.0, 1.0)}


def test_a_style_brings_its_loras_and_its_words():
    request = asked(style_preset="cut", negative_prompt="dull")
    assert (request.styled_prompt, request.styled_negative) == ("a cat, cut out", "dull, flat")
    assert request.style == Style("cut", "{prompt}, cut out", "flat")
    assert {use.card.name: use.weight for use in request.loras} == {"Paper Cut": 0.5, "ink": 1.0}
    assert uses(style_preset="cut", loras=["ink:0", "paper cut:0"]) == {}


def test_a_lora_of_no_weight_is_left_out_but_half_of_one_is_not():
    assert uses(prompt="<lora:ink:0> x") == {}
    assert uses(prompt="<lora:ink:te=0:unet=1> x") == {"ink": (1.0, 0.0)}


def test_what_is_drawn_can_be_asked_for_again():
    text = parameters(asked(loras=["ink:0.5", "l1:0.2:0.9"], prompt="a cat"), 1)
    assert text.startswith("a cat <lora:ink:0.5> <lora:l1:0.2:0.9>\n")
    assert uses(prompt=text.splitlines()[0]) == {"ink": (0.5, 0.5), "l1": (0.9, 0.2)}


@pytest.mark.parametrize(
    ("fields", "kind", "param", "words"),
    [
        ({"loras": ["gone"]}, InvalidRequest, "loras[0].name", "There is no LoRA 'gone'"),
        ({"loras": ["ink", "glow"]}, Unsupported, "loras[1].name", "made for family sdxl"),
        ({"prompt": "<lora:gone:1>"}, InvalidRequest, "prompt", "There is no LoRA 'gone'"),
        ({"prompt": "x", "negative_prompt": "<lora:glow>"}, Unsupported, "negative_prompt", "made for family sdxl"),
        ({"style_preset": "xl"}, Unsupported, "style_preset", "made for family sdxl"),
        ({"loras": ["ink", {"name": "INK"}]}, InvalidRequest, "loras[1].name", "listed twice"),
        ({"loras": ["ink:heavy"]}, InvalidRequest, "loras[0]", "is no LoRA"),
        ({"loras": ["ink:1:2:3"]}, InvalidRequest, "loras[0]", "is no LoRA"),
        ({"loras": [":1"]}, InvalidRequest, "loras[0]", "is no LoRA"),
        ({"loras": ["ink:nan"]}, InvalidRequest, "loras[0].weight", "from -20 to 20"),
        ({"loras": ["ink:21"]}, InvalidRequest, "loras[0].weight", "from -20 to 20"),
        ({"loras": [{"name": "ink", "text_weight": -21}]}, InvalidRequest, "loras[0].text_weight", "from -20 to 20"),
        ({"loras": [f"l{index}" for index in range(9)]}, TooLarge, "loras", "9 entries; 8 are allowed"),
        (
            {"loras": [f"l{index}" for index in range(8)], "prompt": "<lora:ink>"},
            TooLarge,
            "loras",
            "9 entries; 8 are allowed",
        ),
        ({"prompt": "<lora:<lora:ink>ink:1>"}, InvalidRequest, "prompt", "a LoRA tag inside another"),
        ({"negative_prompt": "<lora:<lora:ink>ink:1>"}, InvalidRequest, "negative_prompt", "a LoRA tag inside another"),
        ({"loras": [{"name": "ink", "wight": 1}]}, InvalidRequest, "loras[0].wight", "did you mean 'weight'"),
        ({"loras": ["ink", {"weight": 1}]}, InvalidRequest, "loras[1].name", "Missing required"),
    ],
)
def test_what_is_wrong_with_loras(fields, kind, param, words):
    error = refused(**fields)
    assert (type(error), error.param) == (kind, param)
    assert words in error.message


# Controls and references


def test_controls():
    listed = [
        {"name": "Canny", "image": "x"},
        {"name": "canny", "image": "x", "preprocessor": "none", "weight": 0.5, "start": 0.1, "end": 0.6, "balance": "prompt"},
        {"name": "poses", "image": "x", "preprocessor": "OpenPose", "resize": "fill"},
        {"name": "union", "image": "x", "mode": "depth"},
    ]
    assert asked(controls=listed).controls == (
        ControlUse(CANNY, DOT, preprocessor="canny"),
        ControlUse(CANNY, DOT, weight=0.5, start=0.1, end=0.6, balance=Balance.PROMPT),
        ControlUse(POSES, DOT, preprocessor="openpose", resize=Resize.FILL),
        ControlUse(UNION, DOT, mode="depth"),
    )


def test_references():
    listed = [{"name": "plus", "image": "x"}, {"name": "PLUS", "images": ["x", "y"], "weight": 2, "start": 0.2}]
    assert asked(references=listed).references == (
        ReferenceUse(PLUS, (DOT,)),
        ReferenceUse(PLUS, (DOT, DOT), weight=2.0, start=0.2),
    )


def control(**more):
    return {"controls": [{"name": "poses", "image": "x"}, {"name": "canny", "image": "x", **more}]}


def reference(**more):
    return {"references": [{"name": "plus", "image": "x", **more}]}


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        (control(name="gone"), InvalidRequest, "controls[1].name"),
        ({**control(), "model": "xl"}, Unsupported, "controls[0].name"),
        (control(weight=2.1), InvalidRequest, "controls[1].weight"),
        (control(weight=-1), InvalidRequest, "controls[1].weight"),
        (control(start=0.5, end=0.5), InvalidRequest, "controls[1].start"),
        (control(end=1.5), InvalidRequest, "controls[1].end"),
        (control(mode="depth"), Unsupported, "controls[1].mode"),
        (control(name="union"), InvalidRequest, "controls[1].mode"),
        (control(name="union", mode="flow"), InvalidRequest, "controls[1].mode"),
        (control(balance="mine"), InvalidRequest, "controls[1].balance"),
        (control(resize=4), InvalidRequest, "controls[1].resize"),
        ({"controls": [{"name": "poses", "image": "x"}] * 5}, TooLarge, "controls"),
        (reference(name="gone"), InvalidRequest, "references[0].name"),
        (reference(weight=3), InvalidRequest, "references[0].weight"),
        (reference(end=0), InvalidRequest, "references[0].start"),
        ({"references": [{"name": "plus", "image": "x"}] * 5}, TooLarge, "references"),
    ],
)
def test_what_is_wrong_with_controls_and_references(fields, kind, param):
    error = refused(**fields)
    assert (type(error), error.param) == (kind, param)


# The picture to start from


def test_a_picture_alone():
    init = asked(image=picture(), resize="fill").init
    assert (init.strength, init.resize, init.masking, init.keep_unmasked) == (0.6, Resize.FILL, Masking(), False)


def test_a_mask_with_everything():
    init = asked(
        image=picture(),
        mask=picture(mode="L"),
        mask_blur=3.5,
        mask_grow=-4,
        mask_invert=True,
        mask_soft=True,
        mask_content="latent_noise",
        only_masked=True,
        mask_padding=16,
        keep_unmasked=False,
        strength=0.5,
    ).init
    expected = Masking(
        invert=True, grow=-4, blur=3.5, soft=True, content=MaskedContent.LATENT_NOISE, only_masked=True, padding=16
    )
    assert (init.masking, init.strength, init.keep_unmasked) == (expected, 0.5, False)
    usual = asked(image=picture(), mask=picture(mode="L")).init
    assert (usual.masking, usual.strength, usual.keep_unmasked) == (Masking(), 1.0, True)


def test_margins_make_the_image_larger():
    request = asked(image=picture(), outpaint={"right": 64, "top": 8})
    assert (request.init.outpaint, request.init.strength, request.init.keep_unmasked) == (Margins(0, 8, 64, 0), 1.0, True)
    assert (request.width, request.height) == (320, 200)


def test_what_programs_send_that_send_everything_is_no_mistake():
    off = {"mask_blur": 0, "mask_grow": 0, "mask_invert": False, "only_masked": False, "keep_unmasked": False}
    assert asked(**off).init is None
    assert asked(image=picture(), **off).init.masking == Masking()


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"resize": "fill"}, InvalidRequest, "resize"),
        ({"strength": 0.5}, InvalidRequest, "strength"),
        ({"outpaint": {"left": 8}}, InvalidRequest, "outpaint"),
        ({"mask": picture(mode="L")}, InvalidRequest, "mask"),
        ({"mask_blur": 4}, InvalidRequest, "mask_blur"),
        ({"image": picture(), "mask_blur": 4}, InvalidRequest, "mask_blur"),
        ({"image": picture(), "only_masked": True}, InvalidRequest, "only_masked"),
        ({"image": picture(), "outpaint": {"left": 8}, "mask_invert": True}, InvalidRequest, "mask_invert"),
        ({"image": picture(), "mask": picture(8, 8, "L")}, InvalidRequest, "mask"),
        ({"image": picture(), "mask": picture(mode="L"), "mask_padding": 4}, InvalidRequest, "mask_padding"),
        ({"image": picture(), "mask": picture(mode="L"), "mask_blur": -1}, InvalidRequest, "mask_blur"),
        ({"image": picture(), "mask": picture(mode="L"), "mask_blur": 257}, InvalidRequest, "mask_blur"),
        ({"image": picture(), "mask": picture(mode="L"), "mask_grow": 5000}, TooLarge, "mask_grow"),
        ({"image": picture(), "mask": picture(mode="L"), "mask_content": "cats"}, InvalidRequest, "mask_content"),
        ({"image": picture(), "outpaint": {}}, InvalidRequest, "outpaint"),
        ({"image": picture(), "outpaint": {"left": -8}}, InvalidRequest, "outpaint.left"),
        ({"image": picture(), "outpaint": {"left": 5000}}, TooLarge, "outpaint.left"),
        ({"image": picture(8000, 1), "outpaint": {"top": 4096, "bottom": 4096}}, TooLarge, "outpaint"),
        ({"image": picture(), "strength": 0}, InvalidRequest, "strength"),
    ],
)
def test_what_is_wrong_with_pictures_and_masks(fields, kind, param):
    error = refused(**fields)
    assert (type(error), error.param) == (kind, param)


# Larger and smaller


def test_a_second_pass():
    assert asked(hires={"scale": 1.5}).hires == Hires(384, 288)
    hires = asked(hires={"width": 384, "height": 256, "upscaler": "sharp", "strength": 0.4, "steps": 9}).hires
    assert hires == Hires(384, 256, Enlarger.MODEL, SHARP, 0.4, 9)
    assert asked(hires={"scale": 1.5, "enlarger": "lanczos"}).hires.enlarger is Enlarger.LANCZOS


def test_enlarging_begins_with_what_was_drawn():
    assert asked(upscale={"scale": 2}).upscale == Upscale(512, 384)
    assert asked(hires={"scale": 1.5}, upscale={"scale": 2, "upscaler": "SHARP"}).upscale == Upscale(
        768, 576, Enlarger.MODEL, SHARP
    )
    kept = asked(image=picture(300, 201), mask=picture(300, 201, "L"), only_masked=True, upscale={"scale": 2}, size="256x192")
    assert (kept.upscale.width, kept.upscale.height) == (600, 402)
    assert asked(upscale={"scale": 2, "tiles": {}}).upscale.tiles == Tiles()
    assert asked(upscale={"scale": 2, "tiles": {"size": 128, "strength": 0.5}}).upscale.tiles == Tiles(128, 32, 0.5)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"hires": {}}, InvalidRequest, "hires"),
        ({"hires": {"scale": 2, "width": 512}}, InvalidRequest, "hires"),
        ({"hires": {"width": 512}}, InvalidRequest, "hires"),
        ({"hires": {"scale": 1}}, InvalidRequest, "hires.scale"),
        ({"hires": {"scale": 5}}, InvalidRequest, "hires.scale"),
        ({"hires": {"scale": 1.001}}, InvalidRequest, "hires"),
        ({"hires": {"width": 128, "height": 512}}, InvalidRequest, "hires"),
        ({"hires": {"width": 1280, "height": 192}}, TooLarge, "hires"),
        ({"hires": {"width": 300, "height": 200}}, InvalidRequest, "hires"),
        ({"hires": {"scale": 4}}, TooLarge, "hires"),
        ({"hires": {"scale": 1.5, "strength": 0}}, InvalidRequest, "hires.strength"),
        ({"hires": {"scale": 1.5, "steps": 61}}, TooLarge, "hires.steps"),
        ({"hires": {"scale": 1.5, "steps": 1}}, InvalidRequest, "hires.strength"),
        ({"hires": {"scale": 1.5}, "sampler": "ipndm"}, Unsupported, "sampler"),
        ({"hires": {"scale": 1.5, "upscaler": "gone"}}, InvalidRequest, "hires.upscaler"),
        ({"hires": {"scale": 1.5, "enlarger": "model"}}, InvalidRequest, "hires.upscaler"),
        ({"hires": {"scale": 1.5, "enlarger": "latent", "upscaler": "sharp"}}, InvalidRequest, "hires.enlarger"),
        ({"upscale": {"scale": 2, "enlarger": "latent"}}, Unsupported, "upscale.enlarger"),
        ({"upscale": {"scale": 9}}, InvalidRequest, "upscale.scale"),
        ({"upscale": {"width": 100, "height": 100}}, InvalidRequest, "upscale"),
        ({"size": "512x512", "upscale": {"width": 4096, "height": 4096}, "hires": None}, None, None),
        ({"hires": {"scale": 1.5}, "upscale": {"scale": 8}}, None, None),
        ({"upscale": {"scale": 2, "tiles": {"size": 100}}}, InvalidRequest, "upscale.tiles.size"),
        ({"upscale": {"scale": 2, "tiles": {"size": 1024}}}, InvalidRequest, "upscale.tiles.size"),
        ({"upscale": {"scale": 2, "tiles": {"overlap": 300}}}, TooLarge, "upscale.tiles.overlap"),
        ({"upscale": {"scale": 2, "tiles": {"strength": 0.01}}}, InvalidRequest, "upscale.tiles.strength"),
        ({"output": {"size": "512x384"}}, InvalidRequest, "output.size"),
        ({"output": {"size": "264x100"}}, InvalidRequest, "output.size"),
        ({"output": {"size": "0x0"}}, InvalidRequest, "output.size"),
        ({"output": {"size": "half"}}, InvalidRequest, "output.size"),
        ({"output": {"format": "gif"}}, Unsupported, "output.format"),
        ({"output": {"quality": 50}}, InvalidRequest, "output.quality"),
        ({"output": {"format": "webp", "quality": 101}}, TooLarge, "output.quality"),
    ],
)
def test_what_is_wrong_with_sizes_of_results(fields, kind, param):
    if kind is None:
        assert ordered(**fields)
        return
    error = refused(**fields)
    assert (type(error), error.param) == (kind, param)


def test_enlarged_pictures_have_a_limit():
    big = replace(CARD, limits=replace(CARD.limits, max_pixels=4096 * 4096))
    options = from_json(b'{"prompt": "x", "width": 2048, "height": 2048, "upscale": {"scale": 8}}', GenerateRequest)
    with pytest.raises(TooLarge, match="the limit is 33554432"):
        generation(options, Catalog("m", {"m": big}), Supplied(), job_id="j", tenant="t", draw=lambda: 1)


def test_tiles_are_no_larger_than_what_the_model_makes():
    small = replace(CARD, limits=replace(CARD.limits, max_pixels=206 * 206))
    options = from_json(b'{"prompt": "x", "width": 128, "height": 128, "upscale": {"scale": 4, "tiles": {}}}', GenerateRequest)
    found = generation(options, Catalog("m", {"m": small}), Supplied(), job_id="j", tenant="t", draw=lambda: 1)
    assert found.order.request.upscale.tiles == Tiles(200, 50)


def test_results_are_delivered_smaller():
    order = ordered(hires={"scale": 1.5}, output={"size": "192x144", "format": "jpg", "quality": 70})
    assert order.delivery == Delivery(Format.JPEG, 70, 192, 144)
    assert ordered(size="200x152", output={"size": "100x100"}).delivery == Delivery(width=100, height=100)


# The rest


def test_the_refiner_of_the_request_wins_over_the_card_s():
    assert asked(model="refined").refiner == Refiner("finisher")
    assert asked(model="refined", refiner="none").refiner is None
    assert asked(refiner="other").refiner == Refiner("finisher", 0.8)
    order = ordered(refiner={"model": "finisher", "switch_at": 0.5})
    assert order.request.refiner == Refiner("finisher", 0.5)
    assert [card.id for card in order.cards] == ["m", "finisher"]


def test_sizes_and_skipped_layers():
    told = {"original": [512, 512], "crop": [8, 0], "aesthetic_score": 7}
    assert asked(model="xl", sizes=told).sizes == SizeConditioning((512, 512), (8, 0), aesthetic_score=7.0)
    assert asked(model="xl").sizes is None
    skipped = asked(model="flow", skip_layers={"layers": [9, 7, 7], "scale": 1}).sampling.skip_layers
    assert skipped == SkipLayers((7, 9), 1.0)
    assert asked(model="flow", skip_layers="none").sampling.skip_layers is None


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"refiner": "gone"}, InvalidRequest, "refiner.model"),
        ({"refiner": "xl"}, Unsupported, "refiner.model"),
        ({"refiner": {"model": "finisher", "switch_at": 1}}, InvalidRequest, "refiner.switch_at"),
        ({"sizes": {}}, Unsupported, "sizes"),
        ({"model": "xl", "sizes": {"crop": [-1, 0]}}, InvalidRequest, "sizes.crop"),
        ({"model": "xl", "sizes": {"original": [0, 9]}}, InvalidRequest, "sizes.original"),
        ({"model": "xl", "sizes": {"target": [9, 99999]}}, TooLarge, "sizes.target"),
        ({"model": "xl", "sizes": {"original": [9]}}, InvalidRequest, "sizes.original"),
        ({"model": "xl", "sizes": {"aesthetic_score": 11}}, InvalidRequest, "sizes.aesthetic_score"),
        ({"skip_layers": {"layers": [1]}}, Unsupported, "skip_layers"),
        ({"skip_layers": "all"}, InvalidRequest, "skip_layers"),
        ({"model": "flow", "skip_layers": {"layers": []}}, InvalidRequest, "skip_layers.layers"),
        ({"model": "flow", "skip_layers": {"layers": [-1]}}, InvalidRequest, "skip_layers.layers"),
        ({"model": "flow", "skip_layers": {"layers": [1], "start": 0.5}}, InvalidRequest, "skip_layers.start"),
        ({"model": "gone"}, UnknownModel, "model"),
        ({"prompt": ""}, InvalidRequest, "prompt"),
        ({"width": 256}, InvalidRequest, "height"),
        ({"width": 250, "height": 256}, InvalidRequest, "width"),
        ({"width": 10**18, "height": 8 * 10**17}, TooLarge, "width"),
        ({"size": "256x256", "aspect_ratio": "1:1"}, InvalidRequest, "size"),
        ({"aspect_ratio": "wide"}, InvalidRequest, "aspect_ratio"),
        ({"aspect_ratio": "1:9"}, InvalidRequest, "aspect_ratio"),
        ({"aspect_ratio": "0:1"}, InvalidRequest, "aspect_ratio"),
        ({"seed": 1, "seeds": [1]}, InvalidRequest, "seeds"),
        ({"seeds": []}, InvalidRequest, "seeds"),
        ({"seeds": [1, 2, 3, 4, 5]}, TooLarge, "seeds"),
        ({"seeds": [1, -1]}, InvalidRequest, "seeds[1]"),
        ({"seeds": [1, 2], "count": 3}, InvalidRequest, "count"),
        ({"count": 5}, TooLarge, "count"),
        ({"guidance": -1}, InvalidRequest, "guidance"),
        ({"previews": 1}, InvalidRequest, "previews"),
        ({"response_format": "hex"}, InvalidRequest, "response_format"),
        ({"negativ_prompt": "x"}, InvalidRequest, "negativ_prompt"),
    ],
)
def test_what_is_wrong_with_the_rest(fields, kind, param):
    error = refused(**fields)
    assert (type(error), error.param) == (kind, param)


def test_sizes_as_they_are_said():
    def size(**fields):
        request = asked(**fields)
        return request.width, request.height

    assert size() == (256, 192)
    assert size(width=64, height=512) == size(size="64x512") == (64, 512)
    assert size(aspect_ratio="1:1") == (224, 224)
    assert size(aspect_ratio="16:9") == (288, 160)
    assert size(image=picture(300, 200)) == (304, 200)
    assert size(image=picture(300, 200), size="auto") == (304, 200)
    masked = {"image": picture(300, 200), "mask": picture(300, 200, "L")}
    assert size(**masked) == size(**masked, only_masked=True) == (304, 200)
    small = {"image": picture(64, 64), "mask": picture(64, 64, "L")}
    assert (size(**small), size(**small, only_masked=True)) == ((64, 64), (224, 224))


def test_seeds_as_they_are_said():
    assert asked(seeds=[5, 5, 2**64 - 1]).seeds == (5, 5, 2**64 - 1)
    assert asked(seed=5, count=2).seeds == (5, 6)
    assert asked().seeds == (77,)


def test_pictures_can_speak_for_themselves():
    assert asked(prompt="", image=picture()).prompt == ""
    assert asked(prompt="", references=[{"name": "plus", "image": "x"}]).prompt == ""


def test_what_may_not_have_been_meant_is_warned_of():
    def warnings(**fields):
        options = GenerateRequest(prompt="x", **fields)
        found = generation(options, CATALOG, Supplied(), job_id="j", tenant="t", draw=lambda: 1)
        return [(each.code, each.param) for each in found.warnings]

    assert warnings(negative_prompt="dull") == warnings(guidance=1.0) == []
    assert warnings(size="512x512") == [("size_far_from_native", "size")]
    assert warnings(negative_prompt="dull", guidance=1.0) == [("negative_prompt_unused", "negative_prompt")]


number = st.integers(-2, 600) | st.floats(-1, 3) | st.sampled_from([0, 0.5, 1, 64, 256])
name = st.sampled_from(["ink", "Paper Cut", "glow", "gone", "canny", "union", "plus", "sharp", "m", "none", "finisher"])


def some(**fields):
    return st.fixed_dictionaries({}, optional=fields)


@given(
    some(
        prompt=st.sampled_from(["a cat", "", "<lora:ink:0.3> x", "<lora:gone>", "<lora:<lora:ink>ink>"]),
        loras=st.lists(name | some(name=name, weight=number), max_size=3),
        controls=st.lists(some(name=name, image=st.just("x"), weight=number, start=number, end=number, mode=name), max_size=2),
        references=st.lists(some(name=name, image=st.just("x"), weight=number), max_size=2),
        mask_blur=number,
        mask_grow=st.integers(-9, 9000),
        only_masked=st.booleans(),
        strength=number,
        outpaint=some(left=st.integers(-8, 5000), top=st.integers(0, 80)),
        hires=some(scale=number, width=number, height=number, upscaler=name, strength=number),
        upscale=some(scale=number, width=number, height=number, tiles=some(size=number, overlap=number)),
        refiner=name | some(model=name, switch_at=number),
        output=some(size=st.sampled_from(["64x48", "128x96", "9x9"]), format=st.sampled_from(["png", "webp"])),
        style_preset=st.sampled_from(["cut", "xl", "line-art"]),
        sampler=st.sampled_from(["euler", "ipndm", "lcm"]),
        steps=st.integers(-1, 61),
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_options_give_a_lawful_request_or_a_refusal_that_names_one(fields, with_picture, with_mask):
    try:
        order = ordered(
            image=picture() if with_picture else None, mask=picture(mode="L") if with_mask and with_picture else None, **fields
        )
    except InvalidRequest as error:
        assert error.param  # noqa: PT017 - a refusal is one of two lawful outcomes
        return
    request = order.request
    assert not extract(request.styled_prompt)[1]
    assert len({use.card.name for use in request.loras}) == len(request.loras) <= 8
    assert all(use.card.family is CARD.family for use in (*request.loras, *request.controls, *request.references))
    assert request.hires is None or request.hires.width * request.hires.height <= CARD.limits.max_pixels
    assert request.upscale is None or request.upscale.width * request.upscale.height <= 33_554_432
    assert request.init is None or 0 < request.init.strength <= 1
    full = request.finished_size
    assert all(small <= large for small, large in zip(order.delivery.size(*full), full, strict=True))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=type(request)) == request


def test_previews_are_for_streams():
    options = GenerateRequest(prompt="x", previews=3, steps=20)
    found = generation(options, CATALOG, Supplied(), job_id="j", tenant="t", draw=lambda: 1, followed=True)
    assert found.order.request.preview_every == 5
    with pytest.raises(TooLarge, match="from 0 to 10"):
        generation(replace(options, previews=11), CATALOG, Supplied(), job_id="j", tenant="t", draw=lambda: 1, followed=True)
