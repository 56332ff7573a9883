"""Train the demo checkpoint from nothing, on a CPU: about two hours of two cores that do nothing else.

    python scripts/train_demo.py                      all phases, one after another
    python scripts/train_demo.py vae --minutes 12     autoencoder: 128x128 pixels <-> 16x16x4 latents
    python scripts/train_demo.py text --minutes 4     text encoder: which colours, shapes, sizes and places a prompt names
    python scripts/train_demo.py unet --minutes 60    denoiser, on the first two
    python scripts/train_demo.py decoder --minutes 8  sharpen the decoder on latents as inexact as sampled ones
    python scripts/train_demo.py export               fp16 safetensors into pipelines/bundled/demo
    python scripts/train_demo.py evaluate             draw held-out prompts and measure them
    python scripts/train_demo.py contact-sheet        docs/img/demo-contact-sheet.png

Each training phase saves its state every few minutes and, started again, goes on where it was. With `--minutes` the learning
rate follows the minutes spent, so a busy machine trains fewer steps but always ends annealed; with `--steps` it follows the
step count, which makes a run repeatable. What a step sees depends only on the seed and the step's number.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import demo_data  # noqa: E402

SEED = 20
BUNDLE = ROOT / "pipelines" / "bundled" / "demo"
STATE = ROOT / "out" / "demo-training"
SHEET = ROOT / "docs" / "img" / "demo-contact-sheet.png"

# Training shapes: (width, height), how many cached pictures, batch size, share of the batches.
BUCKETS = (((128, 128), 10_000, 16, 0.88), ((192, 128), 800, 10, 0.06), ((128, 192), 800, 10, 0.06))
EMPTY_PROMPTS = 0.1  # what guidance needs: the model must know what it draws when nothing is asked
SD_SCALING = 0.18215  # latents are brought to this scale, since some tools write the number into their code
TOKENS = 77
WORKERS = 2
AVERAGE_EVERY = 4

# Loss of one worker's share of one step; a function of the step's number and the worker's rank alone.
Loss = Callable[[int, int], Tensor]


def bfloat16_is_fast() -> bool:
    """Say whether this CPU multiplies bfloat16 in hardware; where it does not, autocast is ten times slower, not faster."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast() -> torch.autocast:
    """Return the precision that trains fastest here."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast())


# --- a training loop that can be stopped ------------------------------------------------------------------------------


@dataclass(slots=True)
class Budget:
    """How long a phase trains: steps if given, else minutes."""

    minutes: float
    steps: int | None = None


class Trainer:
    """Optimiser, moving average, schedule and state file around one loss function of a step's number.

    Two processes of one thread each, which meet once per step, do a third more than one process of two threads, which meet
    after every operation; on a machine that does other work as well, several times more.
    """

    def __init__(
        self, name: str, modules: dict[str, nn.Module], budget: Budget, *, rate: float, decay: float, average: float
    ) -> None:
        self.path = STATE / f"{name}.pt"
        self.name, self.modules, self.budget = name, modules, budget
        self.rate, self.average = rate, average
        self.parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=decay, fused=True)
        self.shadow = [p.detach().clone() for p in self.parameters]
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            self.load()

    def load(self) -> None:
        """Go back to where the state file was written."""
        state = torch.load(self.path, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.shadow = state["shadow"]
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the state file; an interrupted write leaves the old one."""
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "shadow": self.shadow,
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def use_average(self) -> None:
        """Put the moving average of the weights into the modules."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.shadow)

    @property
    def progress(self) -> float:
        """Return the part of the budget that is spent, 0 to 1."""
        return self.step / self.budget.steps if self.budget.steps else self.seconds / (60 * self.budget.minutes)

    def run(self, loss_of: Loss, log_every: int = 50) -> None:
        """Train until the budget is spent."""
        fork = multiprocessing.get_context("fork")
        for module in self.modules.values():
            module.share_memory()
        helpers: list[Helper] = []
        for rank in range(1, WORKERS):
            gradients = [torch.zeros_like(p).share_memory_() for p in self.parameters]
            ours, theirs = fork.Pipe()
            process = fork.Process(target=assist, args=(theirs, self.parameters, gradients, loss_of, rank), daemon=True)
            process.start()
            helpers.append(Helper(process, ours, gradients))
        recent: list[float] = []
        saved = time.monotonic()
        total = self.budget.steps or round(self.budget.minutes * 60)
        bar = tqdm(total=total, desc=self.name, unit="step" if self.budget.steps else "s", mininterval=20)
        bar.update(self.step if self.budget.steps else int(self.seconds))
        while self.progress < 1:
            began = time.monotonic()
            recent.append(self.advance(loss_of, helpers))
            spent = time.monotonic() - began
            self.seconds += spent
            bar.update(1 if self.budget.steps else int(self.seconds) - int(self.seconds - spent))
            if self.step % log_every == 0:
                bar.set_postfix(step=self.step, loss=f"{np.mean(recent):.4f}")
                with (STATE / f"{self.name}.log").open("a", encoding="utf-8") as log:
                    log.write(f"{self.step}\t{self.seconds:.0f}\t{np.mean(recent):.5f}\n")
                recent.clear()
            if time.monotonic() - saved > 150:
                self.save()
                saved = time.monotonic()
        bar.close()
        self.save()
        for helper in helpers:
            helper.pipe.send(None)
            helper.process.join()

    def advance(self, loss_of: Loss, helpers: Sequence[Helper]) -> float:
        """Take one step; every worker has computed its share of the batch by the end of it."""
        warmth = min(1.0, (self.step + 1) / 150)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * warmth * max(0.005, 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.progress)))
        for helper in helpers:
            helper.pipe.send(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss = loss_of(self.step, 0)
        (loss / WORKERS).backward()
        losses = [loss.item(), *(helper.pipe.recv() for helper in helpers)]
        with torch.no_grad():
            own = [p.grad for p in self.parameters if p.grad is not None]
            for helper in helpers:
                torch._foreach_add_(own, helper.gradients)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            # The average follows quickly at first, when the weights still move fast.
            keep = min(self.average, self.step / (self.step + 9)) ** AVERAGE_EVERY
            with torch.no_grad():
                torch._foreach_lerp_(self.shadow, self.parameters, 1 - keep)
        return sum(losses) / len(losses)


@dataclass(slots=True)
class Helper:
    """Another process that computes its share of each batch, with the shared memory its gradients arrive in."""

    process: BaseProcess
    pipe: Connection
    gradients: list[Tensor]


def assist(pipe: Connection, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], loss_of: Loss, rank: int) -> None:
    """Compute a share of each batch until told to stop. The weights are shared memory: the first process alone moves them."""
    while (step := pipe.recv()) is not None:
        loss = loss_of(step, rank)
        (loss / WORKERS).backward()
        with torch.no_grad():
            torch._foreach_copy_(list(gradients), [p.grad for p in parameters if p.grad is not None])
        for p in parameters:
            p.grad = None
        pipe.send(loss.item())


# --- the networks -----------------------------------------------------------------------------------------------------


def new_vae() -> AutoencoderKL:
    """Return an untrained autoencoder: factor 8, four latent channels, about a million weights."""
    torch.manual_seed(SEED)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # few channels to a group would normalise flat colours away
        sample_size=demo_data.SIDE,
        scaling_factor=SD_SCALING,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def new_unet() -> UNet2DConditionModel:
    """Return an untrained denoiser: one plain and two cross-attention levels, eleven million weights."""
    torch.manual_seed(SEED + 1)
    unet = UNet2DConditionModel(
        sample_size=demo_data.SIDE // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=8,
        norm_num_groups=4,  # as in the autoencoder: what a prompt says of the whole picture must survive normalisation
    )
    # Every residual branch begins as nothing: the first thousand steps go faster and steadier.
    for name, part in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    return unet


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder of two layers."""
    torch.manual_seed(SEED + 2)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> PNDMScheduler:
    """Return the scheduler SD 1 ships with, for v-prediction; every other one is made from its config."""
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
        timestep_spacing="leading",
    )
    # PNDM does not know the option; DDIM, made from this config, would clip latents as if they were pixels.
    scheduler.register_to_config(clip_sample=False)
    return scheduler


# --- the tokenizer ----------------------------------------------------------------------------------------------------

MERGES = 300
# Common words of prompts beside the demo's own: as single tokens they leave room for longer prompts.
COMMON_WORDS = (
    "the of and to in is for with at by from up no not it this that as are be or an two three four five one many some all "
    "man woman child girl boy face eyes hair hand animal bird fish horse flower mountain sea water river beach forest field "
    "night day sun moon stars fire snow rain cloud summer winter street room table chair window door car boat train "
    "painting painted oil watercolor sketch pencil ink photograph photography camera lens film digital concept render "
    "realistic cinematic dramatic soft bright colorful vibrant pastel sharp focus depth background foreground wide close "
    "under below right bottom top inside beside near behind front between over around shape color colour size big tiny huge"
)


def byte_symbols() -> list[str]:
    """Return CLIP's printable stand-in for each of the 256 bytes, in its own order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Learn byte-pair merges: the most frequent neighbours first, ties in alphabetical order."""
    spelled = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in spelled.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIP tokenizer whose vocabulary covers all bytes, so that any prompt has tokens."""
    words = Counter(COMMON_WORDS.split())
    own = " ".join([*demo_data.COLOURS, *demo_data.SHAPES, *demo_data.RADII, *demo_data.RELATIONS, "a an on background"])
    words.update(dict.fromkeys(own.split(), 100))
    words.update(dict.fromkeys(" ".join(demo_data.FILLERS).split(), 10))
    merges = learn_merges(words, MERGES)
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{s}</w>" for s in symbols), *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "errors": "replace", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def tokenise(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Turn prompts into ids the way the pipelines do at inference: padded to 77, no attention mask."""
    return torch.tensor(tokenizer(list(prompts), padding="max_length", max_length=TOKENS, truncation=True).input_ids)


# --- phase: vae -------------------------------------------------------------------------------------------------------

CROP = 64


def as_tensor(pixels: Sequence[demo_data.Pixels]) -> Tensor:
    """Bring pictures to -1..1, channels first."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def gradients(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return horizontal and vertical differences of neighbouring pixels."""
    return picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]


def picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Compare pictures; edges count extra, since a flat picture is mostly right wherever it has none."""
    edges = sum((functional.l1_loss(a, b) for a, b in zip(gradients(made), gradients(wanted), strict=True)), torch.zeros(()))
    return functional.l1_loss(made, wanted) + functional.mse_loss(made, wanted) + 0.5 * edges


def picture_pool(count: int = 1500) -> Tensor:
    """Return training pictures for the autoencoder, as bytes."""
    pool = [demo_data.training_example(SEED + 7, i)[1] for i in range(count)]
    return torch.from_numpy(np.stack(pool)).permute(0, 3, 1, 2).contiguous()


def crops(pool: Tensor, step: int, count: int) -> Tensor:
    """Cut random squares from random pictures."""
    rng = random.Random(f"crops:{SEED}:{step}")
    cut: list[Tensor] = []
    room = demo_data.SIDE - CROP
    for _ in range(count):
        # Mostly on the grid that things lie on; the rest so that pictures users bring are encoded sensibly, too.
        stride = demo_data.GRID if rng.random() < 0.8 else 1
        picture = pool[rng.randrange(len(pool))]
        x, y = rng.randrange(0, room + 1, stride), rng.randrange(0, room + 1, stride)
        cut.append(picture[:, y : y + CROP, x : x + CROP])
    return torch.stack(cut).float().div_(127.5).sub_(1)


def unevenness(latents: Tensor) -> Tensor:
    """Say how far the channels are from mean 0, deviation 1 and no correlation, over a batch and all its places.

    Without it the channels become copies of each other: after 650 steps the eigenvalues of their correlation were 2.95, 0.95,
    0.10 and 0.0001, twelve colours lay in two dimensions, and the denoiser mixed them. With it they are between 0.8 and 1.2.
    """
    flat = latents.transpose(0, 1).flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    covariance = centred @ centred.T / centred.shape[1]
    return ((covariance - torch.eye(len(covariance))) ** 2).sum() + (flat.mean(1) ** 2).sum()


def train_vae(budget: Budget) -> None:
    """Train the autoencoder, then bring each latent channel to mean 0 and the deviation that SD's scaling factor expects."""
    vae = new_vae().to(memory_format=torch.channels_last)
    trainer = Trainer("vae", {"vae": vae}, budget, rate=2e-3, decay=1e-4, average=0.998)
    pool = picture_pool()

    def loss_of(step: int, rank: int) -> Tensor:
        torch.manual_seed((SEED * 1_000_003 + step) * WORKERS + rank)
        wanted = crops(pool, step * WORKERS + rank, 24 // WORKERS).to(memory_format=torch.channels_last)
        with autocast():
            posterior = vae.encode(wanted).latent_dist
            # What a sampler leaves is never exact: what looks different must lie apart by more than this.
            made = vae.decode(posterior.mean + 0.15 * torch.randn_like(posterior.mean)).sample
        # The deviation is not sampled from while training, so it is told what to be: about a twentieth.
        deviation = ((posterior.logvar + 6) ** 2).mean()
        return picture_loss(made.float(), wanted) + 0.02 * unevenness(posterior.mean) + 1e-4 * deviation

    trainer.run(loss_of)
    trainer.use_average()
    standardise(vae, pool[:400])
    vae.to(memory_format=torch.contiguous_format).save_pretrained(STATE / "vae")
    with torch.inference_mode():
        wanted = pool[400:500].float().div(127.5).sub(1)
        made = vae.decode(vae.encode(wanted).latent_dist.mode()).sample
        correlation = torch.corrcoef(vae.encode(wanted).latent_dist.mode().transpose(0, 1).flatten(1))
    print(f"autoencoder: L1 {functional.l1_loss(made, wanted):.4f} over {trainer.step} steps")
    print(f"eigenvalues of the channels' correlation: {[round(v, 2) for v in torch.linalg.eigvalsh(correlation).tolist()]}")
    strip = torch.cat([wanted[:10], made[:10]]).clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    Image.fromarray(np.vstack([np.hstack(list(strip[:10])), np.hstack(list(strip[10:]))])).save(STATE / "vae.png")


@torch.no_grad()
def standardise(vae: AutoencoderKL, pool: Tensor) -> None:
    """Fold a scale and shift per latent channel into the two 1x1 convolutions; pictures stay exactly the same."""
    latents = torch.cat([vae.encode(part.float().div(127.5).sub(1)).latent_dist.mode() for part in pool.split(50)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3)) * SD_SCALING
    first, last = vae.get_submodule("quant_conv"), vae.get_submodule("post_quant_conv")
    # z' = (z - mean) / deviation on the way in; the log-variances that share the convolution shrink alike.
    first.weight[:4] /= deviation[:, None, None, None]
    first.bias[:4] = (first.bias[:4] - mean) / deviation
    first.bias[4:] -= 2 * deviation.log()
    last.bias += (last.weight[:, :, 0, 0] * mean).sum(1)
    last.weight *= deviation[None, :, None, None]


# --- phase: text ------------------------------------------------------------------------------------------------------


def facts(scene: demo_data.Scene) -> list[int]:
    """Return what a caption says as class numbers: the ground, each thing's colour, shape and size, the relation."""
    colours, sizes = list(demo_data.COLOURS), list(demo_data.RADII)
    numbers = [
        colours.index(scene.ground),
        demo_data.RELATIONS.index(scene.relation) if scene.relation else len(demo_data.RELATIONS),
    ]
    for thing in (*scene.things, None)[:2]:
        numbers += [
            colours.index(thing.colour) if thing else len(colours),
            demo_data.SHAPES.index(thing.shape) if thing else len(demo_data.SHAPES),
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
    colours, shapes, sizes = len(demo_data.COLOURS), len(demo_data.SHAPES) + 1, len(demo_data.RADII) + 1
    classes = [colours, len(demo_data.RELATIONS) + 1, *((colours + 1, shapes, sizes) * 2)]
    torch.manual_seed(SEED + 3)
    reader = nn.Linear(128, sum(classes))
    trainer = Trainer("text", {"text": text, "reader": reader}, budget, rate=2e-3, decay=1e-2, average=0.99)

    def loss_of(step: int, rank: int) -> Tensor:
        rng = random.Random(f"text:{SEED}:{step}:{rank}")
        scenes = [demo_data.training_scene(SEED + 100, rng.randrange(1_000_000)) for _ in range(64 // WORKERS)]
        tokens = tokenise(tokenizer, [demo_data.loose_caption(scene, rng) for scene in scenes])
        after = tokens == tokenizer.eos_token_id
        said = reader(text(tokens)[0][after]).split(classes, dim=-1)
        asked = torch.tensor([facts(scene) for scene in scenes]).repeat_interleave(after.sum(1), dim=0)
        return sum((functional.cross_entropy(s, asked[:, i]) for i, s in enumerate(said)), torch.zeros(()))

    trainer.run(loss_of)
    trainer.use_average()
    text.save_pretrained(STATE / "text")


# --- phase: unet -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cache:
    """The latents, tokens and weights of all training pictures of one size."""

    latents: Tensor
    tokens: Tensor
    weights: Tensor
    batch: int


CHUNK = 100


@torch.no_grad()
def encoded_chunk(vae: AutoencoderKL, bucket: int, start: int) -> tuple[Tensor, Tensor, list[str]]:
    """Draw and encode some pictures: latents, loss weights, captions."""
    (width, height), *_ = BUCKETS[bucket]
    examples = [demo_data.training_example(SEED + bucket, start + i, width, height) for i in range(CHUNK)]
    pixels = as_tensor([pixels for _, pixels, _ in examples]).to(memory_format=torch.channels_last)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(20)]) * SD_SCALING
    # Ground is easy and most of a picture: weigh the things, and one latent pixel around them, four times.
    covered = torch.from_numpy(np.stack([mask for _, _, mask in examples]))[:, None]
    near = functional.max_pool2d(functional.max_pool2d(covered, 8), 3, stride=1, padding=1)
    weight = 1 + 3 * (near > 0).float()
    weight /= weight.mean((1, 2, 3), keepdim=True)
    return latents.contiguous().half(), weight.half(), [text for text, _, _ in examples]


def cached_pictures(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> list[Cache]:
    """Encode the training pictures once; later runs read the file."""
    path = STATE / "latents.pt"
    if not path.exists():
        vae = vae.to(memory_format=torch.channels_last)
        entries = []
        for bucket, ((width, height), count, *_) in enumerate(BUCKETS):
            with ThreadPoolExecutor(WORKERS) as pool:
                made = pool.map(lambda start, bucket=bucket: encoded_chunk(vae, bucket, start), range(0, count, CHUNK))
                chunks = list(tqdm(made, total=count // CHUNK, desc=f"latents {width}x{height}", mininterval=20))
            latents, weights, texts = zip(*chunks, strict=True)
            tokens = tokenise(tokenizer, [text for part in texts for text in part])
            entries.append({"latents": torch.cat(latents), "tokens": tokens, "weights": torch.cat(weights)})
        torch.save(entries, path)
    entries = torch.load(path, weights_only=True)
    return [Cache(**entry, batch=batch) for entry, (_, _, batch, _) in zip(entries, BUCKETS, strict=True)]


def choose(step: int, rank: int, caches: Sequence[Cache]) -> tuple[Cache, Tensor, torch.Generator]:
    """Choose the size of a step's pictures, this worker's share of them, and its random numbers."""
    draw = random.Random(f"bucket:{SEED}:{step}").random()
    shares = np.cumsum([share for *_, share in BUCKETS])
    cache = caches[int(np.searchsorted(shares, draw * shares[-1], side="right"))]
    generator = torch.Generator().manual_seed((SEED * 1_000_033 + step) * WORKERS + rank)
    return cache, torch.randint(len(cache.latents), (cache.batch // WORKERS,), generator=generator), generator


def train_unet(budget: Budget) -> None:
    """Train the denoiser on cached latents and what the finished text encoder says."""
    tokenizer = write_tokenizer(STATE / "tokenizer")
    text = CLIPTextModel.from_pretrained(STATE / "text").requires_grad_(requires_grad=False)
    unet = new_unet().to(memory_format=torch.channels_last)
    trainer = Trainer("unet", {"unet": unet}, budget, rate=8e-4, decay=1e-3, average=0.996)
    caches = cached_pictures(AutoencoderKL.from_pretrained(STATE / "vae"), tokenizer)
    empty = tokenise(tokenizer, [""])
    scheduler = new_scheduler()
    unet.train()

    def loss_of(step: int, rank: int) -> Tensor:
        cache, chosen, generator = choose(step, rank, caches)
        clean = cache.latents[chosen].float()
        tokens = torch.where(torch.rand((len(chosen), 1), generator=generator) < EMPTY_PROMPTS, empty, cache.tokens[chosen])
        noise = torch.randn(clean.shape, generator=generator)
        # One timestep from each of as many equal spans: every batch sees the whole range, and the loss is less noisy.
        count = len(chosen)
        spans = (torch.arange(count) * WORKERS + rank + torch.rand(count, generator=generator)) / (count * WORKERS)
        times = (spans**0.75 * 1000).long().clamp(max=999)  # rather more of the noisy ones, where the prompt decides
        noisy = scheduler.add_noise(clean, noise, times)
        share = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
        velocity = share.sqrt() * noise - (1 - share).sqrt() * clean
        with autocast():
            context = text(tokens)[0]
            guess = unet(noisy.to(memory_format=torch.channels_last), times, context, return_dict=False)[0]
        return (cache.weights[chosen].float() * (guess.float() - velocity) ** 2).mean()

    trainer.run(loss_of)


# --- phase: decoder ---------------------------------------------------------------------------------------------------


def train_decoder(budget: Budget) -> None:
    """Train the decoder further on slightly wrong latents: what a sampler leaves is never exactly what the encoder makes."""
    vae = AutoencoderKL.from_pretrained(STATE / "vae").to(memory_format=torch.channels_last)
    vae.requires_grad_(requires_grad=False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(requires_grad=True)
    trainer = Trainer("decoder", {"vae": vae}, budget, rate=6e-4, decay=1e-4, average=0.998)
    pool = picture_pool(3000)

    def loss_of(step: int, rank: int) -> Tensor:
        share = step * WORKERS + rank
        generator = torch.Generator().manual_seed(SEED * 1_000_211 + share)
        wanted = crops(pool, share + 10_000_000, 24 // WORKERS).to(memory_format=torch.channels_last)
        with autocast():
            with torch.no_grad():
                latents = vae.encode(wanted).latent_dist.mode()
            strength = 0.25 * torch.rand((len(wanted), 1, 1, 1), generator=generator) / SD_SCALING
            made = vae.decode(latents + strength * torch.randn(latents.shape, generator=generator)).sample
        return picture_loss(made.float(), wanted)

    trainer.run(loss_of)
    trainer.use_average()
    vae.to(memory_format=torch.contiguous_format).save_pretrained(STATE / "vae-sharp")


# --- phase: export ----------------------------------------------------------------------------------------------------


def assemble() -> StableDiffusionPipeline:
    """Put the averaged weights of all phases that have run into a pipeline; the rest stays untrained."""
    tokenizer = write_tokenizer(STATE / "tokenizer")
    trained = [STATE / name for name in ("vae-sharp", "vae") if (STATE / name).exists()]
    vae = AutoencoderKL.from_pretrained(trained[0]) if trained else new_vae()
    text = CLIPTextModel.from_pretrained(STATE / "text") if (STATE / "text").exists() else new_text_encoder(tokenizer)
    unet = new_unet()
    if (STATE / "unet.pt").exists():
        trainer = Trainer("unet", {"unet": unet}, Budget(1), rate=0, decay=0, average=0)
        trainer.use_average()
        print(f"denoiser: {trainer.step} steps in {trainer.seconds / 60:.0f} minutes")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export() -> None:
    """Write the checkpoint as users load it; each file is replaced in one move, so a reader never meets half of one."""
    fresh = STATE / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    assemble().to(dtype=torch.float16).save_pretrained(fresh, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # older versions of transformers read these two
        shutil.copyfile(STATE / "tokenizer" / name, fresh / "tokenizer" / name)
    for file in (f for f in fresh.rglob("*.json") if "config" in f.name):
        settings = json.loads(file.read_text(encoding="utf-8"))
        # Where a part was loaded from while training is nobody's business.
        if settings.pop("_name_or_path", None):
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    wanted = {file.relative_to(fresh) for file in fresh.rglob("*") if file.is_file()}
    for name in sorted(wanted):
        (BUNDLE / name).parent.mkdir(parents=True, exist_ok=True)
        partial = BUNDLE / name.with_name(f".{name.name}.partial")
        shutil.copyfile(fresh / name, partial)
        partial.replace(BUNDLE / name)
    for file in [f for f in BUNDLE.rglob("*") if f.is_file() and f.relative_to(BUNDLE) not in wanted]:
        file.unlink()
    size = sum(f.stat().st_size for f in BUNDLE.rglob("*") if f.is_file())
    print(f"exported {size / 1e6:.1f} MB to {BUNDLE}")


# --- phases: evaluate, contact-sheet ----------------------------------------------------------------------------------


def load_bundle() -> StableDiffusionPipeline:
    """Load the exported checkpoint with the sampler its model card names."""
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLE, safety_checker=None, torch_dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    width: int = demo_data.SIDE,
    height: int = demo_data.SIDE,
    batch: int = 10,
) -> Iterator[demo_data.Pixels]:
    """Draw prompts with the card's defaults; the seed is the prompt's number."""
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        made = pipe(
            part, width=width, height=height, num_inference_steps=20, guidance_scale=4.0, generator=generators, output_type="np"
        )
        yield from (made.images * 255).round().astype(np.uint8)


def evaluate() -> None:
    """Measure the exported checkpoint on held-out prompts and keep the pictures."""
    pipe = load_bundle()
    for width, height, count in ((128, 128, 100), (192, 128, 20), (128, 192, 20)):
        scenes = demo_data.heldout_scenes(count)
        pictures = list(draw(pipe, [demo_data.caption(s) for s in scenes], width, height))
        verdicts = demo_data.judge(scenes, pictures)
        shares = {name: sum(getattr(v, name) for v in verdicts) / count for name in ("ground", "colour", "shape")}
        print(f"{width}x{height}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
        for scene, verdict in zip(scenes, verdicts, strict=True):
            if not (verdict.ground and verdict.colour and verdict.shape):
                print(f"  missed: {demo_data.caption(scene)} {verdict}")
        rows = [np.hstack(pictures[i : i + 10]) for i in range(0, count, 10)]
        Image.fromarray(np.vstack(rows)).save(STATE / f"evaluate-{width}x{height}.png")


def contact_sheet(columns: int = 6, rows: int = 4) -> None:
    """Draw labelled held-out prompts for the documentation."""
    count = columns * rows
    scenes = demo_data.heldout_scenes(count, seed=1)
    scenes = [scenes[i * 7 % count] for i in range(count)] if math.gcd(7, count) == 1 else scenes
    prompts = [demo_data.caption(s) for s in scenes]
    side, label, gap = demo_data.SIDE, 40, 12
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


def main() -> None:
    """Run the phases named on the command line."""
    training = {"vae": (train_vae, 12), "text": (train_text, 4), "unet": (train_unet, 60), "decoder": (train_decoder, 8)}
    finishing = {"export": export, "evaluate": evaluate, "contact-sheet": contact_sheet}
    parser = argparse.ArgumentParser(
        description="Train the demo checkpoint.", epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("phases", nargs="*", metavar="phase", help=" | ".join([*training, *finishing]) + " (default: all)")
    parser.add_argument("--minutes", type=float, help="length of the training phase, in minutes of training")
    parser.add_argument("--steps", type=int, help="length of the training phase, in steps; makes the run repeatable")
    options = parser.parse_args()
    if unknown := set(options.phases) - {*training, *finishing}:
        parser.error(f"no such phase: {', '.join(sorted(unknown))}")
    STATE.mkdir(parents=True, exist_ok=True)
    for phase in options.phases or [*training, *finishing]:
        torch.set_num_threads(1 if phase in training else os.cpu_count() or 1)
        if phase in training:
            train, minutes = training[phase]
            train(Budget(options.minutes or minutes, options.steps))
        else:
            finishing[phase]()


if __name__ == "__main__":
    main()
