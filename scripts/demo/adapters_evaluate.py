"""Draws held-out prompts with the bundled adapters: measured, and as pictures for the documentation."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image

from scripts.demo.adapters_judging import edge_overlap, is_outlined, is_two_toned
from scripts.demo.adapters_pictures import Style, colours_caption, controlled_painting, edges
from scripts.demo.evaluate import draw, load_bundle
from scripts.demo.painting import Pixels
from scripts.demo.recipe import CANNY, CONTROL_SHEET, LORA_SHEET, LORAS, STATE
from scripts.demo.scenes import Scene, caption, heldout_scenes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import StableDiffusionPipeline

    from scripts.demo.adapters_judging import Lines

STYLED, CONTROLLED = 100, 50
STEPS, BATCH = 20, 10
# Less guidance than the card's and more control: the lines say more than the prompt, and contours stay where they are.
GUIDANCE, WEIGHT = 2.5, 1.2
STYLE_SEED, CONTROL_SEED = 6, 8  # which held-out scenes; the quality test of the checkpoint draws others


def styled_scenes(count: int = STYLED) -> list[Scene]:
    """Return held-out scenes for the styles; those that ask for a style's own look by their prompt are not among them.

    A small ring is drawn as a line anyway, and so may one of no named size be.
    """
    scenes = heldout_scenes(2 * count, seed=STYLE_SEED)
    return [s for s in scenes if not any(t.shape == "ring" and t.size in {None, "small"} for t in s.things)][:count]


def control_cases(count: int = CONTROLLED) -> list[tuple[Scene, Pixels]]:
    """Return held-out scenes painted freely: where prompts put them, elsewhere, or turned; their edges are the controls."""
    scenes = heldout_scenes(count, seed=CONTROL_SEED)
    return [(scene, controlled_painting(scene, random.Random(f"case:{i}"))[0]) for i, scene in enumerate(scenes)]


def load_style(style: Style) -> StableDiffusionPipeline:
    """Load the checkpoint with a LoRA, as any diffusers user would."""
    pipe = load_bundle()
    pipe.load_lora_weights(LORAS, weight_name=f"{style}.safetensors")
    return pipe


def load_control() -> StableDiffusionControlNetPipeline:
    """Load the checkpoint with the ControlNet, as any diffusers user would."""
    controlnet = ControlNetModel.from_pretrained(CANNY, torch_dtype=torch.float32)
    pipe = StableDiffusionControlNetPipeline(**load_bundle().components, controlnet=controlnet, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def as_control(lines: Lines) -> Image.Image:
    """Return an edge map as the preprocessor does: white lines on black."""
    return Image.fromarray(lines.astype(np.uint8) * 255).convert("RGB")


def draw_along(pipe: StableDiffusionControlNetPipeline, prompts: Sequence[str], controls: Sequence[Lines]) -> list[Pixels]:
    """Draw prompts along edges; the seed is the prompt's number."""
    pictures: list[Pixels] = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        made = pipe(
            part,
            image=[as_control(lines) for lines in controls[start : start + BATCH]],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            controlnet_conditioning_scale=WEIGHT,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            output_type="np",
        )
        pictures += list((made.images * 255).round().astype(np.uint8))
    return pictures


def grid(pictures: Sequence[Pixels], columns: int = 10) -> Image.Image:
    """Lay pictures out in rows."""
    return Image.fromarray(np.vstack([np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]))


def evaluate_styles() -> None:
    """Say how often each style is recognised with its LoRA, with the other, and with neither."""
    prompts = [caption(scene) for scene in styled_scenes()]
    made = {"none": list(draw(load_bundle(), prompts))}
    made |= {style: list(draw(load_style(style), prompts)) for style in get_args(Style)}
    for name, pictures in made.items():
        outlined, toned = (sum(map(is_it, pictures)) / len(pictures) for is_it in (is_outlined, is_two_toned))
        print(f"LoRA {name}: {len(pictures)} pictures, outlined {outlined:.0%}, two-toned {toned:.0%}")
        grid(pictures).save(STATE / f"evaluate-lora-{name}.png")


def evaluate_control() -> None:
    """Say how well edges are followed, with prompts that name colours only, and how well they were without the ControlNet."""
    cases = control_cases()
    controls = [edges(pixels) for _, pixels in cases]
    plain = load_bundle()
    pipe = load_control()
    for said, prompts in (
        ("colours only", [colours_caption(scene) for scene, _ in cases]),
        ("the whole caption", [caption(scene) for scene, _ in cases]),
        ("nothing", [""] * len(cases)),
    ):
        for name, pictures in (("canny", draw_along(pipe, prompts, controls)), ("none", list(draw(plain, prompts)))):
            for reach in (1, 2):
                overlaps = [edge_overlap(edges(p), lines, reach) for p, lines in zip(pictures, controls, strict=True)]
                followed = sum(overlap >= 0.6 for overlap in overlaps)
                print(
                    f"ControlNet {name}, prompts say {said}, lines thickened by {reach}: mean IoU {np.mean(overlaps):.3f}, "
                    f"lowest {min(overlaps):.2f}, {followed} of {len(overlaps)} at 0.6 or more"
                )
            if name == "canny":
                rows = [np.asarray(as_control(lines)) for lines in controls]
                pairs = [part for i in range(0, len(rows), BATCH) for part in (*rows[i : i + BATCH], *pictures[i : i + BATCH])]
                grid(pairs).save(STATE / f"evaluate-control-{said.replace(' ', '-')}.png")


def save_small(sheet: Image.Image, path: Path) -> None:
    """Write a sheet in 128 colours, which is enough for flat ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


def adapter_sheets(columns: int = 6) -> None:
    """Draw the documentation's pictures: prompts with no LoRA and each; edges, and two prompts drawn along each."""
    scenes = styled_scenes()[:: STYLED // columns][:columns]
    prompts = [caption(scene) for scene in scenes]
    rows = [*draw(load_bundle(), prompts)]
    for style in get_args(Style):
        rows += [*draw(load_style(style), prompts)]
    save_small(grid(rows, columns), LORA_SHEET)
    cases = control_cases()[:: CONTROLLED // columns][:columns]
    controls = [edges(pixels) for _, pixels in cases]
    others = [cases[(i + 1) % columns][0] for i in range(columns)]
    pipe = load_control()
    rows = [np.asarray(as_control(lines)) for lines in controls]
    rows += draw_along(pipe, [colours_caption(scene) for scene, _ in cases], controls)
    rows += draw_along(pipe, [colours_caption(scene) for scene in others], controls)
    save_small(grid(rows, columns), CONTROL_SHEET)
