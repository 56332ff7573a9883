"""The table of preprocessors: names, options, sizes, and what is said when weights are missing."""

import pytest

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported
from pipelines.contract.preprocessing import (
    PREPROCESSORS,
    Kind,
    card_for,
    find,
    missing,
    scaled,
    settle,
)


def test_no_name_means_two_things():
    names = [name for spec in PREPROCESSORS for name in (spec.id, *spec.aliases)]
    assert len(names) == len(set(names))
    assert all(find(name) is spec for spec in PREPROCESSORS for name in (spec.id, *spec.aliases))


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("canny", "canny"),
        ("Canny", "canny"),
        ("hed", "softedge_hed"),
        ("midas", "depth_midas"),
        ("depth", "depth_midas"),
        ("normalbae", "normal_bae"),
        ("sam", "segment_anything"),
        ("lineart", "lineart_standard"),
        ("lineart_standard (from white bg & black line)", "lineart_standard"),
        ("invert (from white bg & black line)", "invert"),
        ("softedge-pidinet", "softedge_pidinet"),
        ("t2ia_color_grid", "color_grid"),
        ("teed", "softedge_teed"),
        ("tile", "tile_resample"),
    ],
)
def test_names_as_users_write_them(name, id_):
    assert find(name).id == id_


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("dw_openpose_full", "openpose_full"),
        ("depth_leres++", "depth_leres"),
        ("depth_anything_v2", "depth_midas"),
        ("seg_ofade20k", "segment_anything"),
        ("mediapipe_face", "openpose_faceonly"),
        ("reference_only", "reference"),
        ("inpaint_only+lama", "mask"),
        ("tile_colorfix+sharp", "tile_resample"),
    ],
)
def test_names_of_what_is_not_here_say_what_to_do(name, advice):
    with pytest.raises(Unsupported, match=advice) as told:
        find(name)
    assert told.value.param == "preprocessor"


def test_a_name_that_nobody_knows_lists_those_there_are():
    with pytest.raises(InvalidRequest, match="canny, sobel") as told:
        find("cany")
    assert type(told.value) is InvalidRequest


def test_defaults_are_in_range_and_of_their_kind():
    for spec in PREPROCESSORS:
        for each in spec.all_parameters:
            assert each.least <= each.default <= each.most
            assert isinstance(each.default, int if each.kind is Kind.INTEGER else float)
        assert settle(spec, {}) == {each.name: each.default for each in spec.all_parameters}


@pytest.mark.parametrize(
    ("options", "param", "says"),
    [
        ({"low": 3}, "options.low", "low_threshold"),
        ({"low_threshold": 0}, "options.low_threshold", "from 1 to 255"),
        ({"low_threshold": 256}, "options.low_threshold", "from 1 to 255"),
        ({"low_threshold": 2.5}, "options.low_threshold", "whole number"),
        ({"low_threshold": True}, "options.low_threshold", "whole number"),
        ({"low_threshold": "9"}, "options.low_threshold", "whole number"),
        ({"low_threshold": float("nan")}, "options.low_threshold", "whole number"),
        ({"low_threshold": 201}, "options.low_threshold", "above"),
        ({"resolution": 63}, "options.resolution", "from 64 to 2048"),
    ],
)
def test_wrong_options_are_refused_by_name(options, param, says):
    with pytest.raises(InvalidRequest, match=says) as told:
        settle(find("canny"), options)
    assert told.value.param == param


def test_whole_numbers_may_be_written_as_floats():
    settled = settle(find("canny"), {"low_threshold": 50.0})
    assert settled["low_threshold"] == 50
    assert isinstance(settled["low_threshold"], int)


def test_the_control_image_keeps_the_aspect_ratio():
    assert scaled(300, 200, 512) == (768, 512)
    assert scaled(200, 300, 64) == (64, 96)


def test_a_picture_like_a_thread_is_too_large():
    with pytest.raises(TooLarge) as told:
        scaled(100_000, 10, 512)
    assert told.value.param == "options.resolution"


def test_a_card_is_found_by_any_name_and_for_all_who_share_its_weights():
    card = PreprocessorCard("hed", "dir:/weights")
    assert card_for(find("softedge_hed"), {"hed": card}) is card
    assert card_for(find("scribble_hed"), {"hed": card}) is card
    assert card_for(find("canny"), {}) is None
    with pytest.raises(Unsupported):
        card_for(find("depth_midas"), {"hed": card})


def test_its_own_card_comes_before_a_shared_one():
    shared, own = PreprocessorCard("hed", "dir:/a"), PreprocessorCard("scribble_hed", "dir:/b")
    assert card_for(find("scribble_hed"), {"hed": shared, "scribble_hed": own}) is own


def test_a_card_for_more_files_covers_fewer():
    full = PreprocessorCard("openpose_full", "dir:/a")
    assert card_for(find("openpose"), {"openpose_full": full}) is full
    with pytest.raises(Unsupported):
        card_for(find("openpose_full"), {"openpose": PreprocessorCard("openpose", "dir:/a")})


def test_missing_weights_name_the_entry_to_write():
    for spec in (each for each in PREPROCESSORS if each.weights is not None):
        text = missing(spec)
        assert f"{spec.id}: {{source: hf:{spec.weights.repo}}}" in text
        assert all(name in text for name in spec.weights.files)
