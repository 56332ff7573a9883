"""The demo checkpoint draws what its prompts say, measured over prompts that training never saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors import safe_open
from transformers import CLIPTokenizer

from scripts.demo.judging import judge
from scripts.demo.painting import Pixels, painting
from scripts.demo.scenes import Scene, caption, heldout_scenes, training_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

BUNDLE = Path(__file__).resolve().parents[2] / "pipelines" / "bundled" / "demo"
STEPS, GUIDANCE = 20, 4.4
PROMPTS, BATCH = 100, 10
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    """Load the checkpoint as any diffusers user would, with the sampler its model card names."""
    loaded = StableDiffusionPipeline.from_pretrained(BUNDLE, safety_checker=None, torch_dtype=torch.float32)
    loaded.scheduler = DPMSolverMultistepScheduler.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(pipe: StableDiffusionPipeline, scenes: Sequence[Scene], width: int, height: int) -> list[Pixels]:
    """Draw each scene's caption; the seed is its number."""
    pictures: list[Pixels] = []
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        made = pipe(
            [caption(scene) for scene in part],
            width=width,
            height=height,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            output_type="np",
        )
        pictures += list((made.images * 255).round().astype(np.uint8))
    return pictures


def test_measure_accepts_perfect_pictures_and_refuses_others() -> None:
    """The measure itself: the generator's own pictures pass, the same pictures against other prompts do not."""
    scenes = heldout_scenes(24, seed=2)
    pictures = [painting(scene, number) for number, scene in enumerate(scenes)]
    right = judge(scenes, pictures)
    assert all(v.ground and v.colour and v.shape for v in right)
    wrong = judge(scenes, pictures[1:] + pictures[:1])
    assert sum(v.ground for v in wrong) < 8
    assert sum(v.colour for v in wrong) < 8
    assert sum(v.shape for v in wrong) < 8


def test_heldout_prompts_are_not_in_the_training_data() -> None:
    """What the quality test draws was never trained on, at any size."""
    trained = {training_scene(20, index).key for index in range(2000)}
    scenes = heldout_scenes(PROMPTS)
    assert len({caption(scene) for scene in scenes}) == PROMPTS
    assert not trained & {scene.key for scene in scenes}


def test_draws_what_heldout_prompts_say(pipe: StableDiffusionPipeline) -> None:
    """Ground in 95 %, colour in its place in 90 %, shape in 80 % of a hundred prompts."""
    scenes = heldout_scenes(PROMPTS)
    verdicts = judge(scenes, draw(pipe, scenes, 128, 128))
    ground, colour, shape = (sum(getattr(v, part) for v in verdicts) / PROMPTS for part in ("ground", "colour", "shape"))
    print(f"\ndemo checkpoint, {PROMPTS} held-out prompts: ground {ground:.0%}, colour in place {colour:.0%}, shape {shape:.0%}")
    assert ground >= 0.95
    assert colour >= 0.90
    assert shape >= 0.80


@pytest.mark.parametrize(("width", "height"), [(192, 128), (128, 192)])
def test_stays_sane_off_square(pipe: StableDiffusionPipeline, width: int, height: int) -> None:
    """Wide and tall pictures have the named ground in every corner and the named colours in their places."""
    scenes = heldout_scenes(BATCH, seed=3)
    verdicts = judge(scenes, draw(pipe, scenes, width, height))
    assert sum(v.ground for v in verdicts) >= BATCH - 1
    assert sum(v.colour for v in verdicts) >= BATCH - 2


def test_is_small_and_half_precision_safetensors_only() -> None:
    """The checkpoint is 30 MB at most, every weight is fp16, and nothing in the folder is code or a pickle."""
    files = [file for file in BUNDLE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 30 * MEGABYTE
    assert {file.suffix for file in files} <= {".json", ".txt", ".safetensors"}
    for file in (f for f in files if f.suffix == ".safetensors"):
        with safe_open(file, framework="pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} <= {"F16", "I64"}  # noqa: SIM118 - not a dict


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "naïve café",
        "日本の赤い丸",
        "🎨🟥 \U0001f469\u200d\U0001f680",
        "\x00\x7f\ufffd",
        "العربية",
        "Ω≈ç√∫ \u202e",
        "x" * 40_000,
    ],
)
def test_any_prompt_tokenises(prompt: str) -> None:
    """Every string becomes 77 ids of the vocabulary, none of them unknown."""
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLE / "tokenizer")
    ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77
    assert ids[0] == tokenizer.bos_token_id
    assert all(0 <= i < len(tokenizer) for i in ids)
    inner = tokenizer(prompt[:20], add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in inner


def test_scheduler_config_carries_over(pipe: StableDiffusionPipeline) -> None:
    """A scheduler of another class, made from the checkpoint's config, predicts velocities and does not clip latents."""
    stored = pipe.scheduler.config
    other = DDIMScheduler.from_config(stored)
    assert other.config.prediction_type == "v_prediction"
    assert other.config.steps_offset == 1
    assert other.config.clip_sample is False
