"""Native sizes: what is near, what fits, what is worth a warning."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.family import Family
from server.catalog.sizes import buckets, nearest, suited, warning


def card(family, side, most=None, **limits):
    limits = Limits(max_pixels=most or 4 * side * side, **limits)
    return ModelCard(id="m", source="", family=family, defaults=Defaults(width=side, height=side), limits=limits)


SD1, SD2 = card(Family.SD, 512), card(Family.SD, 768)
XL, SD3 = card(Family.SDXL, 1024), card(Family.SD3, 1024)
DEMO = card(Family.SD, 128)
ALL = [SD1, SD2, XL, SD3, DEMO]


@pytest.mark.parametrize(
    ("model", "ratio", "size"),
    [
        (SD1, "1:1", (512, 512)),
        (SD1, "16:9", (640, 384)),
        (SD1, "9:16", (384, 640)),
        (SD2, "1:1", (768, 768)),
        (SD2, "3:2", (896, 640)),
        (XL, "1:1", (1024, 1024)),
        (XL, "16:9", (1344, 768)),
        (XL, "9:16", (768, 1344)),
        (XL, "3:2", (1216, 832)),
        (XL, "4:3", (1152, 896)),
        (XL, "21:9", (1536, 640)),
        (XL, "5:4", (1152, 896)),
        (XL, "4:1", (2048, 512)),
        (SD3, "16:9", (1344, 768)),
        (DEMO, "1:1", (128, 128)),
        (DEMO, "4:3", (144, 112)),
    ],
)
def test_the_nearest_native_size_of_a_shape(model, ratio, size):
    assert nearest(ratio, model) == size


@pytest.mark.parametrize("spelling", ["16:9", "16/9", "16x9", " 16 : 9 ", "1.7778", "160:90"])
def test_a_shape_may_be_written_in_several_ways(spelling):
    assert nearest(spelling, XL) == (1344, 768)


@pytest.mark.parametrize("wrong", ["", "wide", "16:", ":9", "0:9", "16:0", "9:1", "1:20", "-1", "1:1:1", "16:9;"])
def test_anything_else_is_refused(wrong):
    with pytest.raises(InvalidRequest) as error:
        nearest(wrong, XL)
    assert error.value.param == "aspect_ratio"


@pytest.mark.parametrize("model", ALL, ids=["sd1", "sd2", "xl", "sd3", "demo"])
def test_every_native_size_can_be_made_and_is_worth_no_warning(model):
    base = model.defaults.width
    for width, height in buckets(model):
        assert width % model.family.multiple == height % model.family.multiple == 0
        assert 0.75 * base**2 <= width * height <= 1.05 * base**2
        assert warning(width, height, model) is None
        assert (height, width) in buckets(model)


def test_native_sizes_stay_within_the_card_s_limits():
    small = card(Family.SDXL, 1024, most=1024 * 1024, min_side=700)
    assert buckets(small)
    assert all(min(size) >= 700 and size[0] * size[1] <= 1024 * 1024 for size in buckets(small))
    assert buckets(card(Family.SD, 512, most=256 * 256)) == ((256, 256),), "a card that forbids them all has what it allows"


def test_a_default_of_another_shape_has_the_same_base():
    wide = msgspec.structs.replace(XL, defaults=Defaults(width=1216, height=832))
    assert buckets(wide) == buckets(XL)


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        (XL, (512, 512), "much smaller"),
        (XL, (768, 768), None),
        (XL, (1024, 1536), None),
        (XL, (1536, 1536), "much larger"),
        (SD1, (512, 768), None),
        (SD1, (768, 768), "much larger"),
        (SD1, (256, 256), "much smaller"),
        (SD1, (768, 320), None),
        (SD1, (1024, 256), "longer shape"),
        (XL, (2048, 512), None),
        (DEMO, (128, 128), None),
        (DEMO, (256, 256), "much larger"),
    ],
)
def test_a_size_far_from_training_is_warned_of(model, size, words):
    found = warning(*size, model)
    assert (found is None) if words is None else (words in found)
    if found is not None:
        near = found.partition("trained on is ")[2].split(".")[0]
        assert tuple(map(int, near.split("x"))) in buckets(model), "and told what would be better"


def test_the_fake_was_not_trained():
    assert warning(8, 8, card(Family.FAKE, 512)) is None


@given(width=st.integers(16, 6000), height=st.integers(16, 6000), model=st.sampled_from(ALL))
def test_a_suited_size_is_always_one_the_model_can_make(width, height, model):
    size = suited(width, height, model)
    assert size[0] % model.family.multiple == size[1] % model.family.multiple == 0
    assert size[0] * size[1] <= model.limits.max_pixels
    assert min(size) >= model.limits.min_side or size in buckets(model)
    if 0.4 < width / height < 2.5:
        assert warning(*size, model) is None


def test_a_picture_of_a_fair_size_is_worked_on_as_it_is():
    assert suited(640, 512, SD1) == (640, 512)
    assert suited(4000, 3000, SD1) == (576, 448)
