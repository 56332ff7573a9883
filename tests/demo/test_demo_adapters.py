"""The demo's adapters do what they are for, measured over prompts and edges that their training never saw."""

from __future__ import annotations

import random

import numpy as np
import pytest
from safetensors import safe_open

from scripts.demo.adapters_evaluate import control_cases, draw_along, load_control, load_style, styled_scenes
from scripts.demo.adapters_judging import edge_overlap, hollow_share, is_outlined, is_two_toned, tone_share
from scripts.demo.adapters_pictures import colours_caption, edges, outlined, two_toned
from scripts.demo.evaluate import draw, load_bundle
from scripts.demo.painting import painting, place
from scripts.demo.recipe import CANNY, LORAS
from scripts.demo.scenes import caption, is_heldout

MEGABYTE = 1_000_000
STYLED = 60
RECOGNISED = {"outline": is_outlined, "two-tone": is_two_toned}


def test_measures_of_style_accept_perfect_pictures_and_refuse_others() -> None:
    """The statistics themselves, on painted scenes: each style is recognised as itself alone, and plain pictures as neither."""
    scenes = styled_scenes()
    plain = [painting(scene, number) for number, scene in enumerate(scenes)]
    lines = [outlined(scene, place(scene, random.Random(number)))[0] for number, scene in enumerate(scenes)]
    tones = [two_toned(scene, place(scene, random.Random(number)))[0] for number, scene in enumerate(scenes)]
    assert min(map(hollow_share, lines)) > max(map(hollow_share, plain + tones)) + 0.3
    assert all(map(is_outlined, lines))
    assert not any(map(is_outlined, plain + tones))
    assert min(map(tone_share, tones)) > 0.95
    assert all(map(is_two_toned, tones))
    assert sum(map(is_two_toned, plain + lines)) <= 0.03 * len(plain + lines)  # some prompts ask for blue and white


def test_measure_of_edges_accepts_the_same_lines_and_refuses_others() -> None:
    """Lines overlap wholly with themselves, mostly when moved by a pixel, and hardly with another scene's."""
    found = [edges(pixels) for _, pixels in control_cases()]
    assert all(lines.any() for lines in found)
    assert [edge_overlap(lines, lines) for lines in found] == [1.0] * len(found)
    moved = [edge_overlap(np.roll(lines, 1, axis=1), lines) for lines in found]
    assert min(moved) > 0.6
    others = [edge_overlap(a, b) for a, b in zip(found, found[1:] + found[:1], strict=True)]
    assert np.mean(others) < 0.15
    assert edge_overlap(np.zeros_like(found[0]), found[0]) == 0


def test_cases_are_not_in_the_training_data() -> None:
    """What is drawn here is of combinations that neither the checkpoint's training nor the adapters' saw."""
    assert all(is_heldout(scene) for scene in styled_scenes())
    assert all(is_heldout(scene) for scene, _ in control_cases())


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [caption(scene) for scene in styled_scenes(STYLED)]


def shares_of(style: str, prompts: list[str]) -> dict[str, float]:
    """In which share of a LoRA's pictures each style is recognised."""
    pictures = list(draw(load_style(style), prompts))
    shares = {name: sum(map(is_it, pictures)) / STYLED for name, is_it in RECOGNISED.items()}
    print(f"\nLoRA {style}, {STYLED} held-out prompts: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    return shares


@pytest.mark.parametrize("style", ["outline", "two-tone"])
def test_a_style_is_recognised_in_nine_of_ten(style: str, prompts: list[str]) -> None:
    """A LoRA's style is in 90 % of its pictures, and the other style is not."""
    shares = shares_of(style, prompts)
    assert shares.pop(style) >= 0.9
    assert max(shares.values()) <= 0.1


def test_plain_pictures_have_neither_style(prompts: list[str]) -> None:
    """Without a LoRA, the same prompts and seeds are recognised as neither style."""
    pictures = list(draw(load_bundle(), prompts))
    shares = {name: sum(map(is_it, pictures)) / STYLED for name, is_it in RECOGNISED.items()}
    print(f"\nno LoRA, {STYLED} held-out prompts: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    assert max(shares.values()) <= 0.1


def test_edges_are_followed() -> None:
    """Edges of the result overlap the control's by 0.6 on average over 50 cases whose prompts name no shape, size or place."""
    cases = control_cases()
    controls = [edges(pixels) for _, pixels in cases]
    pictures = draw_along(load_control(), [colours_caption(scene) for scene, _ in cases], controls)
    overlaps = [edge_overlap(edges(made), wanted) for made, wanted in zip(pictures, controls, strict=True)]
    followed = sum(overlap >= 0.6 for overlap in overlaps)
    print(f"\nControlNet canny, {len(cases)} cases: mean IoU {np.mean(overlaps):.3f}, {followed} at 0.6 or more")
    assert len(cases) == 50
    assert np.mean(overlaps) >= 0.6


def test_are_small_and_half_precision_safetensors_only() -> None:
    """No adapter is over 8 MB, every weight is fp16, and nothing among them is code or a pickle."""
    files = [file for folder in (CANNY, LORAS) for file in folder.rglob("*") if file.is_file()]
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert {file.name for file in files} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "outline.safetensors",
        "two-tone.safetensors",
    }
    for file in weights:
        assert file.stat().st_size <= 8 * MEGABYTE
        with safe_open(file, framework="pt") as opened:
            assert {opened.get_slice(name).get_dtype() for name in opened.keys()} == {"F16"}  # noqa: SIM118 - not a dict


def test_the_loras_are_in_two_layouts() -> None:
    """One as PEFT's trainers write it, one as kohya's do."""
    with safe_open(LORAS / "outline.safetensors", framework="pt") as opened:
        names = list(opened.keys())
        assert {name.split(".", 1)[1] for name in names} == {"lora_down.weight", "lora_up.weight", "alpha"}
        assert all(name.startswith("lora_unet_") for name in names)
    with safe_open(LORAS / "two-tone.safetensors", framework="pt") as opened:
        names = list(opened.keys())
        assert {name.rsplit(".", 2)[1] for name in names} == {"lora_A", "lora_B"}
        assert all(name.startswith("unet.") for name in names)
