"""Erasing, outpainting and varying as fields of a request."""

import pytest

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.family import Family
from pipelines.contract.inpainting import Margins, MaskedContent, check
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Sampling
from server.api.recipes import erase, outpaint, variation

CARD = ModelCard("m", "", Family.SD, defaults=Defaults(), limits=Limits(max_pixels=1 << 20))


def grey(width, height, mode="RGB"):
    return Picture(width, height, mode, bytes(width * height * len(mode)))


def request(recipe):
    return ImageRequest(
        "r", "m", recipe.prompt or "", recipe.width, recipe.height, (1,), Sampling("euler", 4, 1.0), init=recipe.init
    )


@pytest.mark.parametrize(("size", "edge"), [((512, 512), 8), ((1600, 1200), 22), ((64, 64), 4)])
def test_erasing_needs_no_words_and_keeps_the_picture_s_size(size, edge):
    recipe = erase(grey(*size), grey(*size, "L"), CARD)
    assert (recipe.prompt, recipe.negative_prompt, recipe.guidance_scale) == ("", "", 1.0)
    masking = recipe.init.masking
    assert (masking.content, masking.grow, masking.blur) == (MaskedContent.FILL, edge, edge / 2)
    assert 0 < recipe.init.strength < 1, "what was filled in must still show"
    assert request(recipe).finished_size == size


@pytest.mark.parametrize("size", [(512, 512), (3000, 2000), (100, 80)])
def test_an_outpainted_picture_grows_by_its_margins_alone(size):
    recipe = outpaint(grey(*size), Margins(10, 20, 30, 40), CARD)
    check(recipe.init.masking, recipe.init.outpaint, size, masked=False)
    assert request(recipe).finished_size == (size[0] + 40, size[1] + 60)
    assert recipe.init.keep_unmasked
    assert recipe.init.masking.blur > 0, "a hard seam shows"
    assert recipe.prompt is None, "the caller says what is in the margins"


def test_a_variation_begins_with_the_picture():
    recipe = variation(grey(300, 200), CARD, strength=0.3)
    assert (recipe.init.strength, recipe.init.inpaints) == (0.3, False)
    assert recipe.width / recipe.height == pytest.approx(1.5, abs=0.2)
