"""Each preprocessor that needs no weights, on drawn pictures: the right size, and what it promises."""

import numpy as np
import pytest

from pipelines.contract.errors import TooLarge, Unsupported
from pipelines.contract.messages import Preprocess
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import PREPROCESSORS
from pipelines.preprocessing.networks import OPENERS, RUNNERS
from pipelines.preprocessing.preprocessors import DRAWN, Preprocessors

FREE = [spec.id for spec in PREPROCESSORS if spec.weights is None]


def picture(pixels):
    height, width = pixels.shape[:2]
    return Picture(width, height, "L" if pixels.ndim == 2 else ("RGB", "RGBA")[pixels.shape[2] - 3], pixels.tobytes())


def square(width=192, height=128):
    """A white square on dark blue, with sharp edges: columns 64..127, rows 32..95."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[...] = (10, 20, 60)
    pixels[32:96, 64:128] = 255
    return pixels


def made(id_, pixels, **options):
    given = picture(pixels)
    result = Preprocessors().run(Preprocess("p", id_, None, given, {"resolution": min(given.width, given.height), **options}))
    assert result.mode == "RGB"
    return np.frombuffer(result.data, np.uint8).reshape(result.height, result.width, 3)


def test_everything_in_the_table_has_somebody_to_do_it():
    assert set(DRAWN) == set(FREE)
    assert set(RUNNERS) == {spec.id for spec in PREPROCESSORS if spec.weights is not None}
    assert set(OPENERS) == {spec.weights.name for spec in PREPROCESSORS if spec.weights is not None}


@pytest.mark.parametrize("id_", FREE)
@pytest.mark.parametrize(("resolution", "size"), [(128, (192, 128)), (64, (96, 64)), (200, (300, 200))])
def test_the_size_is_the_pictures_at_the_resolution_and_the_result_is_the_same_each_time(id_, resolution, size):
    results = [Preprocessors().run(Preprocess("p", id_, None, picture(square()), {"resolution": resolution})) for _ in "ab"]
    assert (results[0].width, results[0].height, results[0].mode) == (*size, "RGB")
    assert results[0] == results[1]


@pytest.mark.parametrize("id_", FREE)
@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.filterwarnings("error")
def test_a_flat_picture_is_no_trouble(id_, level):
    assert made(id_, np.full((64, 80, 3), level, np.uint8)).shape == (64, 80, 3)


@pytest.mark.parametrize("id_", FREE)
def test_every_mode_of_pictures_is_read(id_):
    grey = square()[..., 0]
    assert np.array_equal(made(id_, grey), made(id_, np.repeat(grey[..., None], 3, axis=2)))
    clear = np.concatenate([square(), np.zeros((128, 192, 1), np.uint8)], axis=2)
    assert np.array_equal(made(id_, clear), made(id_, np.full((128, 192, 3), 255, np.uint8)))


@pytest.mark.parametrize("id_", ["canny", "sobel", "scharr", "outlines"])
def test_edges_are_where_the_edges_are_and_nowhere_else(id_):
    found = made(id_, square())[..., 0] > 127
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max()) == pytest.approx((31.5, 95.5), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((63.5, 127.5), abs=2)
    assert not found[40:88, 72:120].any(), "the inside is flat"
    assert found[64, 60:68].any()
    assert found[64, 124:132].any()
    assert found[28:36, 96].any()
    assert found[92:100, 96].any()


def test_canny_is_controlnet_auxs():
    from pipelines.preprocessing.annotators import annotator

    noise = np.random.default_rng(1).integers(0, 255, (128, 192, 3), np.uint8)
    theirs = annotator("canny").CannyDetector()(noise, 60, 120, detect_resolution=128, image_resolution=128)
    assert np.array_equal(made("canny", noise, low_threshold=60, high_threshold=120), theirs)


def test_lineart_is_controlnet_auxs():
    from pipelines.preprocessing.annotators import annotator

    noise = np.random.default_rng(1).integers(0, 255, (128, 192, 3), np.uint8)
    theirs = annotator("lineart_standard").LineartStandardDetector()(noise, 3.0, 5, detect_resolution=128, output_type="np")
    assert np.array_equal(made("lineart_standard", noise, sigma=3.0, intensity_threshold=5), theirs)


def test_canny_finds_less_with_higher_thresholds():
    smooth = made("blur_gaussian", np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8), sigma=1.5)
    counts = [
        (made("canny", smooth, low_threshold=low, high_threshold=high) > 0).sum() for low, high in ((10, 90), (80, 90), (80, 160))
    ]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_outlines_are_as_wide_as_asked(width):
    found = made("outlines", square(), width=width)[64, 40:96, 0]
    assert (found == 255).sum() == width


@pytest.mark.parametrize("id_", ["lineart_standard", "scribble_xdog"])
def test_dark_lines_on_white_become_white_on_black(id_):
    page = np.full((128, 128, 3), 255, np.uint8)
    page[62:65, 16:112] = 0
    found = made(id_, page)[..., 0]
    assert (found[63, 32:96] > 120).all()
    assert (found[:40] < 60).all()
    assert (found[90:] < 60).all()


def test_shuffle_keeps_the_colours_and_moves_them():
    halves = np.zeros((256, 256, 3), np.uint8)
    halves[:, :128], halves[:, 128:] = (200, 30, 30), (30, 30, 200)
    found = made("shuffle", halves)
    distance = np.minimum(*(np.abs(found.astype(int) - colour).max(axis=2) for colour in ((200, 30, 30), (30, 30, 200))))
    assert (distance == 0).mean() > 0.9, "but for the seams, there are no other colours"
    assert (found != halves).any(axis=2).mean() > 0.1
    assert not np.array_equal(found, made("shuffle", halves, seed=1))


def test_shuffle_leaves_numpys_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the very thing that is not to be touched
    made("shuffle", square())
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_the_grid_has_the_mean_colours():
    noise = np.random.default_rng(2).integers(0, 255, (128, 128, 3), np.uint8)
    found = made("color_grid", noise, cell=64)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 4
    assert np.abs(found[0, 0] - noise[:64, :64].mean(axis=(0, 1))).max() <= 1


def test_invert_twice_is_the_picture():
    noise = np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8)
    assert np.array_equal(made("invert", made("invert", noise)), noise)


def test_threshold_is_black_and_white():
    found = made("threshold", square(), threshold=100)
    assert np.array_equal(found[..., 0] == 255, square()[..., 0] == 255)
    assert set(np.unique(found)) == {0, 255}


@pytest.mark.parametrize("id_", ["grey", "recolor_luminance", "recolor_intensity"])
def test_nothing_of_the_colour_is_left(id_):
    noise = np.random.default_rng(4).integers(0, 255, (64, 64, 3), np.uint8)
    found = made(id_, noise)
    assert np.ptp(found.astype(int), axis=2).max() == 0
    assert np.corrcoef(found[..., 0].ravel(), noise.mean(axis=2).ravel())[0, 1] > 0.7


def test_gamma_darkens_and_lightens():
    means = [made("recolor_luminance", square(), gamma=gamma).mean() for gamma in (0.5, 1.0, 2.0)]
    assert means[0] > means[1] > means[2]


def test_blur_and_tile_take_details_away():
    noise = np.random.default_rng(5).integers(0, 255, (128, 128, 3), np.uint8)
    assert made("blur_gaussian", noise).std() < noise.std() / 4
    assert made("tile_resample", noise, factor=4.0).std() < noise.std() / 2
    assert np.array_equal(made("tile_resample", noise), noise)


def test_a_picture_like_a_thread_is_refused_before_any_work():
    with pytest.raises(TooLarge):
        Preprocessors().run(Preprocess("p", "canny", None, picture(np.zeros((4, 40_000, 3), np.uint8))))


@pytest.mark.parametrize("id_", [spec.id for spec in PREPROCESSORS if spec.weights is not None])
def test_without_its_card_each_of_the_others_says_what_to_write(id_):
    with pytest.raises(Unsupported, match=f"{id_}: {{source: hf:"):
        Preprocessors().run(Preprocess("p", id_, None, picture(square())))
