"""Trains the text encoder: from every token after a prompt's end one can read what the prompt asks for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from scripts.demo.networks import new_text_encoder
from scripts.demo.recipe import SEED, STATE
from scripts.demo.scenes import COLOURS, RADII, RELATIONS, SHAPES, Scene, loose_caption, training_scene
from scripts.demo.tokenizer import tokenise, write_tokenizer
from scripts.demo.trainer import WORKERS, Budget, Trainer

if TYPE_CHECKING:
    from torch import Tensor


def facts(scene: Scene) -> list[int]:
    """Return what a caption says as class numbers: the ground, each thing's colour, shape and size, the relation."""
    colours, sizes = list(COLOURS), list(RADII)
    numbers = [
        colours.index(scene.ground),
        RELATIONS.index(scene.relation) if scene.relation else len(RELATIONS),
    ]
    for thing in (*scene.things, None)[:2]:
        numbers += [
            colours.index(thing.colour) if thing else len(colours),
            SHAPES.index(thing.shape) if thing else len(SHAPES),
            sizes.index(thing.size) if thing and thing.size else len(sizes),
        ]
    return numbers


def train_text(budget: Budget) -> None:
    """Train the text encoder to say from every token after the prompt's end what the prompt asks for.

    Trained from nothing together with the denoiser, it collapses: the denoiser sees no use in an encoder that says nothing, and
    so gives it nothing to learn from.
    """
    tokenizer = write_tokenizer(STATE / "tokenizer")
    text = new_text_encoder(tokenizer)
    colours, shapes, sizes = len(COLOURS), len(SHAPES) + 1, len(RADII) + 1
    classes = [colours, len(RELATIONS) + 1, *((colours + 1, shapes, sizes) * 2)]
    torch.manual_seed(SEED + 3)
    reader = nn.Linear(128, sum(classes))
    trainer = Trainer("text", {"text": text, "reader": reader}, budget, rate=2e-3, decay=1e-2, average=0.99)

    def loss_of(step: int, rank: int) -> Tensor:
        rng = random.Random(f"text:{SEED}:{step}:{rank}")
        scenes = [training_scene(SEED + 100, rng.randrange(1_000_000)) for _ in range(64 // WORKERS)]
        tokens = tokenise(tokenizer, [loose_caption(scene, rng) for scene in scenes])
        after = tokens == tokenizer.eos_token_id
        said = reader(text(tokens)[0][after]).split(classes, dim=-1)
        asked = torch.tensor([facts(scene) for scene in scenes]).repeat_interleave(after.sum(1), dim=0)
        return sum((functional.cross_entropy(s, asked[:, i]) for i, s in enumerate(said)), torch.zeros(()))

    trainer.run(loss_of)
    trainer.use_average()
    text.save_pretrained(STATE / "text")
