"""From the size that is asked for to one that an upstream makes."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.providers.sizes import Free, nearest, ratio_name, within

FIXED = ((1024, 1024), (1536, 1024), (1024, 1536))
SIDES = st.integers(8, 500).map(lambda side: side * 8)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((512, 512), (816, 816)),
        ((1024, 1024), (1024, 1024)),
        ((2048, 1152), (2048, 1152)),
        ((1000, 1000), (1008, 1008)),
        ((3840, 2160), (3840, 2160)),
    ],
)
def test_free_sizes_cover_what_is_asked_for(asked, made):
    assert within(*asked, Free()) == made


@settings(deadline=None)
@given(SIDES, SIDES)
def test_free_sizes_are_always_allowed_and_near_in_shape(width, height):
    bounds = Free()
    made = within(width, height, bounds)
    assert bounds.allows(*made)
    wanted = min(max(width / height, 1 / 3), 3)
    assert abs(math.log(made[0] / made[1] / wanted)) < 0.06
    if bounds.allows(width, height):
        assert made == (width, height)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((512, 512), (1024, 1024)),
        ((1920, 1080), (1536, 1024)),
        ((600, 800), (1024, 1536)),
        ((1152, 1024), (1024, 1024)),
    ],
)
def test_the_nearest_fixed_size_is_that_of_the_nearest_shape(asked, made):
    assert nearest(*asked, FIXED) == made


def test_of_sizes_of_one_shape_the_smallest_that_need_not_be_enlarged():
    squares = ((256, 256), (512, 512), (1024, 1024))
    assert [nearest(side, side, squares) for side in (128, 256, 300, 512, 600, 2000)] == [
        (256, 256),
        (256, 256),
        (512, 512),
        (512, 512),
        (1024, 1024),
        (1024, 1024),
    ]


def test_ratio_names():
    names = ("21:9", "16:9", "1:1", "9:16")
    assert [ratio_name(*size, names) for size in ((1024, 1024), (1920, 1080), (600, 1000), (5000, 1000))] == [
        "1:1",
        "16:9",
        "9:16",
        "21:9",
    ]
