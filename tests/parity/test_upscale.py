"""What is done to a finished picture, in the engine: enlarged to the exact size, and redrawn tile by tile."""

import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from by_diffusers import picture_of
from by_diffusers import reference as one_pass
from driving import run
from enlarged_by_diffusers import decoded, resized, tensor
from enlarged_by_diffusers import reference as two_passes
from enlarged_by_diffusers import run as by_diffusers
from spandrel import ModelLoader
from test_alone import RELATIVE, relative
from test_alone import request as plain
from test_company import Cramped
from tiny_sd3 import TinySD3

from pipelines.adapters.resampling import as_picture
from pipelines.adapters.tiling import Canvas, cut, grid
from pipelines.contract.adapters import ControlCard
from pipelines.contract.control import ControlUse
from pipelines.contract.enlarging import Enlarger, Hires, Tiles, Upscale
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Phase, Progress
from pipelines.contract.picture import Resize
from pipelines.contract.request import Init, Refiner, Sampling
from pipelines.engine.enlarging import Redrawing
from pipelines.families.pictures import to_image, to_picture

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from upscalers import compact

TILES = Tiles(64, 16, 0.5)


@pytest.fixture(scope="module")
def sd3():
    return TinySD3()


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    card = compact(tmp_path_factory.mktemp("upscalers") / "larger.safetensors", scale=4)
    network = ModelLoader().load_from_file(card.source.removeprefix("file:")).eval()
    return msgspec.structs.replace(card, tile=48), network


def ask(upscale, *, kind="txt2img", sampler="euler_a", **changes):
    return msgspec.structs.replace(plain(kind, sampler, guided=True, **changes), upscale=upscale)


def wanted(enlarger, larger, width=150, height=170, tiles=None):
    return Upscale(width, height, enlarger, larger[0] if enlarger is Enlarger.MODEL else None, tiles)


def enlarged(pixels, upscale, network):
    """By hand, [1, 3, H, W]."""
    with torch.inference_mode():
        made = network(pixels) if upscale.enlarger is Enlarger.MODEL else pixels
    return resized(made, (upscale.width, upscale.height))


def redrawn(tiny, pixels, asked, seed):
    """Each tile by diffusers' img2img, with a generator of its own; [3, H, W]."""
    tiles = asked.upscale.tiles
    where = grid(pixels.shape[3], pixels.shape[2], tiles.size, tiles.overlap, 8)
    canvas = Canvas(where)
    with torch.inference_mode():
        for index in range(len(where)):
            start = cut(pixels[0], where.box(index))[None]
            generator = torch.Generator().manual_seed(seed + index)
            more = {"image": start, "strength": tiles.strength}
            latents = by_diffusers(tiny, "img2img", asked, generator, seed + index, **more)
            canvas.put(index, decoded(tiny, latents)[0])
    return canvas.pixels()


def shown(picture):
    return np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)


def close(found, pixels):
    return np.abs(found.astype(int) - shown(as_picture(pixels)).astype(int)).max() <= 1


ENLARGERS = [Enlarger.LANCZOS, Enlarger.MODEL]


@pytest.mark.parametrize("enlarger", ENLARGERS)
@pytest.mark.parametrize("size", [(150, 170), (256, 256), (33, 40)])
def test_a_finished_picture_gets_its_exact_size(tiny, larger, enlarger, size):
    asked = ask(wanted(enlarger, larger, *size), seeds=(7, 8))
    result = run({"tiny": tiny.family}, [asked])
    assert not result.failed
    for image in range(2):
        latents, _ = one_pass(tiny, asked, image)
        with torch.inference_mode():
            pixels = enlarged(decoded(tiny, latents), asked.upscale, larger[1])
        assert close(result.pixels[asked.id, image], pixels[0])


@pytest.mark.parametrize("size", [(80, 56), (75, 53)], ids=["a model's size", "any size"])
@pytest.mark.parametrize("enlarger", ENLARGERS)
def test_a_picture_is_enlarged_without_any_drawing_and_without_its_model(larger, tiny, enlarger, size):
    picture = picture_of(*size, 3)
    init = Init(to_picture(picture), strength=0.0)
    asked = ask(wanted(enlarger, larger), init=init, width=size[0], height=size[1])
    result = run({"tiny": tiny.family}, [asked])
    assert not result.failed
    assert {batch.phase for batch in result.batches} == {Phase.ENCODE, Phase.ENLARGE}
    assert close(result.pixels[asked.id, 0], enlarged(tensor(picture), asked.upscale, larger[1])[0])
    (completed,) = [event for event in result.events if isinstance(event, Completed)]
    assert completed.stats.evaluations == 0


@pytest.mark.parametrize("enlarger", ENLARGERS)
def test_tiles_equal_img2img_on_each(tiny, larger, enlarger):
    asked = ask(wanted(enlarger, larger, tiles=TILES))
    result = run({"tiny": tiny.family}, [asked])
    assert not result.failed
    latents, _ = one_pass(tiny, asked)
    with torch.inference_mode():
        pixels = enlarged(decoded(tiny, latents), asked.upscale, larger[1])
    assert close(result.pixels[asked.id, 0], redrawn(tiny, pixels, asked, asked.seeds[0]))
    assert max(len(batch.rows) for batch in result.batches if batch.phase is Phase.DENOISE) >= 8, "tiles share ticks"


def test_a_picture_s_tiles_are_redrawn_without_a_first_pass(tiny, larger):
    picture = picture_of(80, 56, 3)
    init = Init(to_picture(picture), strength=0.0)
    asked = ask(wanted(Enlarger.LANCZOS, larger, tiles=TILES), init=init, width=80, height=56)
    result = run({"tiny": tiny.family}, [asked])
    assert not result.failed
    pixels = enlarged(tensor(to_image(init.picture)), asked.upscale, larger[1])
    assert close(result.pixels[asked.id, 0], redrawn(tiny, pixels, asked, asked.seeds[0]))


@pytest.mark.parametrize("enlarger", list(Enlarger))
def test_a_second_pass_comes_first(tiny, larger, enlarger):
    hires = Hires(96, 80, enlarger, larger[0] if enlarger is Enlarger.MODEL else None)
    asked = msgspec.structs.replace(ask(wanted(Enlarger.MODEL, larger, tiles=TILES)), hires=hires)
    result = run({"tiny": tiny.family}, [asked])
    assert not result.failed
    latents, _ = two_passes(tiny, asked, upscaler=larger[1])
    with torch.inference_mode():
        pixels = enlarged(decoded(tiny, latents), asked.upscale, larger[1])
    assert close(result.pixels[asked.id, 0], redrawn(tiny, pixels, asked, asked.seeds[0]))


def test_company_changes_no_tile(tiny, larger):
    """Two requests with tiles, one with a second pass of a tile's size, and plain ones of that size."""
    tiled = [ask(wanted(each, larger, tiles=TILES), id=each.value, seeds=(5, 6)) for each in ENLARGERS]
    others = [plain("txt2img", "euler", guided=True, id=f"p{seed}", seeds=(seed,)) for seed in range(6)]
    alone = {asked.id: run({"tiny": tiny.family}, [asked]) for asked in tiled}
    requests = [*tiled, *others]
    result = run({"tiny": tiny.family}, requests, join=[0, 2, *range(8, 26, 3)])
    assert not result.failed
    for asked in tiled:
        for image in range(2):
            found, expected = result.pixels[asked.id, image], alone[asked.id].pixels[asked.id, image]
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    for asked in others:
        assert relative(result.latents[asked.id, 0], one_pass(tiny, asked)[0]) < RELATIVE
    shared = [{row.request.id for row in batch.rows} for batch in result.batches if batch.phase is Phase.DENOISE]
    assert any({"lanczos", "model"} <= each for each in shared)
    assert any(len(each) > 1 and each & {"lanczos", "model"} and each - {"lanczos", "model"} for each in shared)


@pytest.mark.parametrize("at", [0, 6, 9])
def test_memory_running_out_changes_nothing(tiny, larger, at):
    asked = ask(wanted(Enlarger.MODEL, larger, tiles=TILES))
    calm = run({"tiny": tiny.family}, [asked])
    family = Cramped(tiny.family, at)
    result = run({"tiny": family}, [asked])
    assert family.refused
    assert not result.failed
    assert np.abs(result.pixels[asked.id, 0].astype(int) - calm.pixels[asked.id, 0].astype(int)).max() <= 1


@pytest.mark.parametrize("model", ["tiny", "sd3"])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_progress_counts_every_tile_and_never_falls(tiny, sd3, larger, model, sampler):
    families = {"tiny": tiny.family, "sd3": sd3.family}
    asked = ask(wanted(Enlarger.LANCZOS, larger, tiles=TILES), model=model, sampler=sampler)
    asked = msgspec.structs.replace(asked, hires=Hires(80, 80), preview_every=2)
    result = run(families, [asked])
    assert not result.failed
    told = [(event.step, event.steps) for event in result.events if isinstance(event, Progress)]
    assert len({steps for _, steps in told}) == 1
    assert all(one < other for (one, _), (other, _) in pairwise(told))
    assert told[-1][0] == told[-1][1]
    tiles = len(grid(150, 170, 64, 16, 8))
    assert told[-1][1] == 8 + (5 if model == "sd3" else 4) + tiles * 4
    assert {event.image for event in result.events if isinstance(event, Progress)} == {0}


def test_tiles_and_a_refiner(larger):
    from tiny_sdxl import TinyXL

    base = TinyXL()
    refiner = TinyXL(refiner=True, seed=2, vae=base.vae)
    upscale = wanted(Enlarger.LANCZOS, larger, tiles=TILES)
    asked = ask(upscale, model="xl", sampler="euler", refiner=Refiner("refiner", 0.75))
    result = run({"xl": base.family, "refiner": refiner.family}, [asked])
    assert not result.failed
    assert result.pixels[asked.id, 0].shape == (170, 150, 3)
    turns = [batch.key.model for batch in result.batches if batch.phase is Phase.DENOISE]
    assert turns[0] == "xl"
    assert list(dict.fromkeys(turns[turns.index("refiner") :])) == ["refiner", "xl"]


def test_the_pixels_a_mask_keeps_are_enlarged_with_the_rest(tiny, larger):
    inpaint = plain("inpaint", "euler", guided=True)
    init = msgspec.structs.replace(inpaint.init, keep_unmasked=True)
    asked = ask(wanted(Enlarger.LANCZOS, larger), kind="inpaint", init=init)
    result = run({"tiny": tiny.family}, [asked])
    plainly = run({"tiny": tiny.family}, [msgspec.structs.replace(asked, upscale=None)])
    pixels = torch.from_numpy(plainly.pixels[asked.id, 0].astype(np.float32) / 255).permute(2, 0, 1)[None]
    assert close(result.pixels[asked.id, 0], resized(pixels, (150, 170))[0])


def test_each_tile_gets_its_part_of_the_control_image():
    """A control image as large as the picture is cut as the picture is; one of another size is fitted to it first."""
    picture = tensor(picture_of(150, 170, 3))[0]
    card = ControlCard("tile", "file:x", Family.SD)
    same, small = (to_picture(picture_of(*size, 3)) for size in ((150, 170), (75, 85)))
    redrawing = Redrawing(picture, TILES, (ControlUse(card, same), ControlUse(card, small, resize=Resize.STRETCH)))
    for index in range(len(grid(150, 170, 64, 16, 8))):
        first, second = redrawing.controls(index)
        assert close(shown(first.picture), redrawing.tile(index))
        wanted = cut(resized(tensor(to_image(small)), (150, 170))[0], grid(150, 170, 64, 16, 8).box(index))
        assert close(shown(second.picture), wanted)


@pytest.mark.parametrize(
    ("upscale", "changes"),
    [
        (Upscale(128, 128, Enlarger.LATENT), {}),
        (Upscale(0, 128), {}),
        (Upscale(128, 128, Enlarger.MODEL), {}),
        (Upscale(128, 128, tiles=Tiles(60)), {}),
        (Upscale(128, 128, tiles=Tiles(64, 33)), {}),
        (Upscale(128, 128, tiles=Tiles(64, 16, 0.0)), {}),
        (Upscale(128, 128, tiles=Tiles(64, 16, 0.01)), {}),
        (Upscale(128, 128, tiles=Tiles(64, 16)), {"sampling": Sampling("ipndm", 8, 4.0)}),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_tick(tiny, upscale, changes):
    asked = ask(upscale, **changes)
    result = run({"tiny": tiny.family}, [asked])
    assert result.failed[asked.id].param == "upscale"
    assert not [batch for batch in result.batches if batch.phase is Phase.DENOISE]


def test_a_file_that_is_no_upscaler_fails_only_who_asks_for_it(tiny, larger, tmp_path):
    card = msgspec.structs.replace(larger[0], source=f"file:{tmp_path}/none.safetensors")
    asked = ask(Upscale(128, 128, Enlarger.MODEL, card), id="bad")
    other = ask(wanted(Enlarger.MODEL, larger), id="good")
    result = run({"tiny": tiny.family}, [asked, other])
    assert set(result.failed) == {"bad"}
    assert result.failed["bad"].code == "model_load_failed"
