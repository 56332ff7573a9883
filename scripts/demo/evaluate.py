"""Draws held-out prompts with the exported checkpoint: measured, and as a contact sheet for the documentation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw

from scripts.demo.judging import judge
from scripts.demo.painting import SIDE, Pixels
from scripts.demo.recipe import BUNDLE, SHEET, STATE
from scripts.demo.scenes import caption, heldout_scenes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def load_bundle() -> StableDiffusionPipeline:
    """Load the exported checkpoint with the sampler its model card names."""
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLE, safety_checker=None, torch_dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    width: int = SIDE,
    height: int = SIDE,
    batch: int = 10,
) -> Iterator[Pixels]:
    """Draw prompts with the card's defaults; the seed is the prompt's number."""
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        made = pipe(
            part, width=width, height=height, num_inference_steps=20, guidance_scale=4.4, generator=generators, output_type="np"
        )
        yield from (made.images * 255).round().astype(np.uint8)


def evaluate() -> None:
    """Measure the exported checkpoint on held-out prompts and keep the pictures."""
    pipe = load_bundle()
    for width, height, count in ((128, 128, 100), (192, 128, 20), (128, 192, 20)):
        scenes = heldout_scenes(count)
        pictures = list(draw(pipe, [caption(s) for s in scenes], width, height))
        verdicts = judge(scenes, pictures)
        shares = {name: sum(getattr(v, name) for v in verdicts) / count for name in ("ground", "colour", "shape")}
        print(f"{width}x{height}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
        for scene, verdict in zip(scenes, verdicts, strict=True):
            if not (verdict.ground and verdict.colour and verdict.shape):
                print(f"  missed: {caption(scene)} {verdict}")
        rows = [np.hstack(pictures[i : i + 10]) for i in range(0, count, 10)]
        Image.fromarray(np.vstack(rows)).save(STATE / f"evaluate-{width}x{height}.png")


def contact_sheet(columns: int = 6, rows: int = 4) -> None:
    """Draw labelled held-out prompts for the documentation."""
    count = columns * rows
    scenes = heldout_scenes(count, seed=1)
    scenes = [scenes[i * 7 % count] for i in range(count)] if math.gcd(7, count) == 1 else scenes
    prompts = [caption(s) for s in scenes]
    side, label, gap = SIDE, 40, 12
    sheet = Image.new("RGB", (gap + columns * (side + gap), gap + rows * (side + label + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (prompt, pixels) in enumerate(zip(prompts, draw(load_bundle(), prompts), strict=True)):
        x, y = gap + i % columns * (side + gap), gap + i // columns * (side + label + gap)
        sheet.paste(Image.fromarray(pixels), (x, y))
        pen.rectangle([x - 1, y - 1, x + side, y + side], outline="#bbbbbb")
        lines = [""]
        for word in prompt.split():
            joined = f"{lines[-1]} {word}".strip()
            if pen.textlength(joined, font_size=10) <= side:
                lines[-1] = joined
            else:
                lines.append(word)
        pen.multiline_text((x, y + side + 4), "\n".join(lines), fill="#333333", font_size=10, spacing=2)
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(SHEET, optimize=True)
    print(f"wrote {SHEET} ({SHEET.stat().st_size / 1e3:.0f} kB)")
