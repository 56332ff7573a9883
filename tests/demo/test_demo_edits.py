"""Erasing, outpainting and repainting with the demo checkpoint, measured on pictures that the generator painted."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.adapters.masks import edited
from pipelines.contract.catalog import Defaults, ModelCard
from pipelines.contract.family import Family
from pipelines.contract.picture import Picture
from pipelines.families.loading import load
from pipelines.families.pictures import to_image, to_picture
from scripts.demo.painting import training_example
from server.api.native.bodies import GenerateRequest, Recipe
from server.api.native.generating import generation
from server.api.options import OutpaintOption
from server.api.orders import Supplied
from server.catalog.catalog import Catalog

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

CARD = ModelCard(id="demo", source="bundled:demo", family=Family.SD, defaults=Defaults(width=128, height=128))
CASES = 8


@pytest.fixture(scope="module")
def demo():
    torch.set_num_threads(1)
    return load(CARD, torch.device("cpu"), lambda *_: None)


@pytest.fixture(scope="module")
def scenes():
    """Prompt, picture and the things in it, of scenes with one thing on a plain ground."""
    examples = (training_example(5, index) for index in range(200))
    found = ((prompt, pixels, weight > 0) for prompt, pixels, weight in examples)
    return [each for each in found if 0.02 < each[2].mean() < 0.2][:CASES]


def made(demo, asked):
    from driving import run

    result = run({"demo": demo}, asked)
    assert not result.failed
    return [result.pixels[each.id, 0].astype(int) for each in asked]


def asked_for(name, pixels, mask=None, **fields):
    """The request that a client's words become."""
    supplied = Supplied(to_picture(Image.fromarray(pixels)), mask)
    options = GenerateRequest(sampler="dpmpp_2m", steps=20, **fields)
    return generation(options, Catalog("demo", {"demo": CARD}), supplied, job_id=name, tenant="t", draw=lambda: 7).order.request


def ground(pixels, things):
    return np.median(pixels[~things], axis=0)


def test_erased_things_are_gone_and_the_rest_is_untouched(demo, scenes):
    asked, gone = [], []
    for index, (_, pixels, things) in enumerate(scenes):
        mask = Picture(128, 128, "L", (things * 255).astype(np.uint8).tobytes())
        asked.append(asked_for(f"e{index}", pixels, mask, recipe=Recipe.ERASE))
    for (_, pixels, things), each, found in zip(scenes, asked, made(demo, asked), strict=True):
        final = np.asarray(edited(to_image(each.init.mask), each.init.masking))
        assert np.array_equal(found[final == 0], pixels[final == 0])
        there = np.abs(found[things] - ground(pixels, things)).mean()
        was = np.abs(pixels[things].astype(int) - ground(pixels, things)).mean()
        gone.append(there < 0.25 * was)
    print(f"erased: {sum(gone)} of {len(gone)}")
    assert sum(gone) >= len(gone) - 1


def test_margins_continue_the_ground_and_the_seam_does_not_show(demo, scenes):
    asked = []
    for index, (prompt, pixels, _) in enumerate(scenes):
        margins = OutpaintOption(left=20, right=28)
        asked.append(asked_for(f"o{index}", pixels, prompt=prompt, guidance=4.4, outpaint=margins))
    seams, kept = [], []
    for (_, pixels, things), found in zip(scenes, made(demo, asked), strict=True):
        assert found.shape == (128, 176, 3)
        assert np.array_equal(found[:, 44:124], pixels[:, 24:104]), "past the seam it is the input"
        steps = np.abs(np.diff(found, axis=1)).mean((0, 2))
        seams.append(max(steps[19], steps[147]))
        margins = np.concatenate([found[:, :20], found[:, 148:]], axis=1)
        kept.append(np.median(np.abs(margins - ground(pixels, things)).mean(2)))
    print(f"step across the seam, mean of 255: {np.mean(seams):.1f}; ground of the margins: {np.median(kept):.1f}")
    assert np.mean(seams) < 3
    assert np.median(kept) < 10
