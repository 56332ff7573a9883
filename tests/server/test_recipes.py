"""Erasing, varying and outpainting: what is left unsaid gets the values that the edit wants."""

import pytest

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.enlarging import Enlarger
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.family import Family
from pipelines.contract.inpainting import MaskedContent, check
from pipelines.contract.picture import Picture
from server.api.native.bodies import GenerateRequest, Recipe
from server.api.native.generating import generation
from server.api.options import HiresOption, OutpaintOption, UpscaleOption
from server.api.orders import Supplied
from server.catalog.catalog import Catalog

CARD = ModelCard("m", "", Family.SD, defaults=Defaults(guidance=5.0, strength=0.3), limits=Limits(max_pixels=1 << 20))


def grey(width, height, mode="RGB"):
    return Picture(width, height, mode, bytes(width * height * len(mode)))


def asked(size, *, masked=False, **fields):
    supplied = Supplied(size and grey(*size), grey(*size, "L") if masked else None)
    options = GenerateRequest(**fields)
    return generation(options, Catalog("m", {"m": CARD}), supplied, job_id="j", tenant="t", draw=lambda: 1).order.request


@pytest.mark.parametrize(("size", "edge"), [((512, 512), 8), ((1600, 1200), 22), ((64, 64), 4), ((3000, 2000), 38)])
def test_erasing_needs_no_words_and_keeps_the_picture_s_size(size, edge):
    request = asked(size, masked=True, recipe=Recipe.ERASE)
    assert (request.prompt, request.sampling.guidance_scale) == ("", 1.0)
    masking = request.init.masking
    assert (masking.content, masking.grow, masking.blur) == (MaskedContent.FILL, edge, edge / 2)
    assert 0 < request.init.strength < 1, "what was filled in must still show"
    assert request.finished_size == size


def test_what_is_said_beside_a_recipe_is_what_counts():
    said = {"strength": 0.9, "guidance": 3.0, "mask_grow": 0, "mask_blur": 1.5, "only_masked": False}
    request = asked((256, 192), masked=True, recipe=Recipe.ERASE, mask_content=MaskedContent.ORIGINAL, **said)
    masking = request.init.masking
    assert (request.init.strength, request.sampling.guidance_scale) == (0.9, 3.0)
    assert (masking.grow, masking.blur, masking.only_masked, masking.content) == (0, 1.5, False, MaskedContent.ORIGINAL)
    assert asked((256, 192), recipe=Recipe.VARIATION, strength=0.2).init.strength == 0.2


def test_a_variation_begins_with_the_picture_more_than_half_way():
    request = asked((304, 200), recipe=Recipe.VARIATION)
    assert (request.init.strength, request.init.inpaints) == (0.6, False)
    assert (request.width, request.height) == (304, 200)
    assert asked((304, 200)).init.strength == CARD.defaults.strength


def test_a_picture_of_any_size_is_made_larger_and_nothing_else():
    request = asked((301, 199), recipe=Recipe.UPSCALE)
    assert (request.init.strength, request.width, request.height) == (0.0, 301, 199)
    assert request.finished_size == (602, 398)
    wide = asked((3000, 2000), recipe=Recipe.UPSCALE, upscale=UpscaleOption(scale=1.5))
    assert wide.finished_size == (4500, 3000), "what the model could draw does not matter"
    twice = HiresOption(scale=2.0, enlarger=Enlarger.LANCZOS)
    assert asked((304, 200), strength=0.0, hires=twice).hires.width == 608
    assert asked((304, 200), recipe=Recipe.UPSCALE, hires=twice).upscale is None


@pytest.mark.parametrize(
    ("size", "fields", "param"),
    [
        ((64, 64), {"strength": 0.0}, "strength"),
        ((64, 64), {"strength": 0.0, "masked": True, "upscale": UpscaleOption(scale=2.0)}, "strength"),
        ((64, 64), {"strength": 0.0, "hires": HiresOption(scale=2.0)}, "hires.enlarger"),
        (None, {"recipe": Recipe.UPSCALE}, "image"),
        (None, {"recipe": Recipe.ERASE}, "image"),
        (None, {"recipe": Recipe.VARIATION, "prompt": "a cat"}, "image"),
        ((64, 64), {"recipe": Recipe.ERASE}, "mask"),
        ((64, 64), {"recipe": Recipe.ERASE, "masked": True, "prompt": "a cat"}, "prompt"),
        ((64, 64), {"recipe": Recipe.ERASE, "masked": True, "only_masked": False, "mask_padding": 4}, "mask_padding"),
    ],
)
def test_what_a_recipe_lacks_is_named(size, fields, param):
    with pytest.raises(InvalidRequest) as caught:
        asked(size, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize("size", [(512, 512), (800, 600), (104, 80)])
def test_an_outpainted_picture_grows_by_its_margins_and_its_seam_is_soft(size):
    margins = OutpaintOption(8, 16, 32, 40)
    request = asked(size, prompt="a field", outpaint=margins)
    check(request.init.masking, request.init.outpaint, size, masked=False)
    assert request.finished_size == (size[0] + 40, size[1] + 56)
    assert request.init.keep_unmasked
    assert request.init.masking.blur > 0, "a hard seam shows"
    assert asked(size, prompt="a field", outpaint=margins, mask_blur=0.0).init.masking.blur == 0.0
    assert asked(size, masked=True, prompt="a field").init.masking.blur == 0.0, "a mask without margins is taken as it is drawn"
