"""Trains the denoiser on cached latents, guided by the finished text encoder."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from scripts.demo.autoencoder import as_tensor
from scripts.demo.networks import new_scheduler, new_unet
from scripts.demo.painting import Mask, training_example
from scripts.demo.recipe import SD_SCALING, SEED, STATE
from scripts.demo.tokenizer import tokenise, write_tokenizer
from scripts.demo.trainer import WORKERS, Budget, Trainer, autocast

# Training shapes: (width, height), how many cached pictures, batch size, share of the batches.
BUCKETS = (((128, 128), 10_000, 16, 0.88), ((192, 128), 800, 10, 0.06), ((128, 192), 800, 10, 0.06))
EMPTY_PROMPTS = 0.1  # what guidance needs: the model must know what it draws when nothing is asked


@dataclass(slots=True)
class Cache:
    """The latents, tokens and weights of all training pictures of one size."""

    latents: Tensor
    tokens: Tensor
    weights: Tensor
    batch: int


CHUNK = 100


def loss_weight(masks: Sequence[Mask]) -> Tensor:
    """Return the weight of each latent pixel in the loss, 1 on average.

    Ground is easy and most of a picture: things, and one latent pixel around them, count four times.
    """
    covered = torch.from_numpy(np.stack(masks))[:, None]
    near = functional.max_pool2d(functional.max_pool2d(covered, 8), 3, stride=1, padding=1)
    weight = 1 + 3 * (near > 0).float()
    return (weight / weight.mean((1, 2, 3), keepdim=True)).half()


def spread_times(count: int, generator: torch.Generator, workers: int = 1, rank: int = 0) -> Tensor:
    """Draw a worker's timesteps of a step: one from each of as many equal spans.

    So every batch sees the whole range, and the loss is less noisy.
    """
    spans = (torch.arange(count) * workers + rank + torch.rand(count, generator=generator)) / (count * workers)
    return (spans**0.75 * 1000).long().clamp(max=999)  # rather more of the noisy ones, where the prompt decides


@torch.no_grad()
def encoded_chunk(vae: AutoencoderKL, bucket: int, start: int) -> tuple[Tensor, Tensor, list[str]]:
    """Draw and encode some pictures: latents, loss weights, captions."""
    (width, height), *_ = BUCKETS[bucket]
    examples = [training_example(SEED + bucket, start + i, width, height) for i in range(CHUNK)]
    pixels = as_tensor([pixels for _, pixels, _ in examples]).to(memory_format=torch.channels_last)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(20)]) * SD_SCALING
    return latents.contiguous().half(), loss_weight([mask for _, _, mask in examples]), [text for text, _, _ in examples]


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
        times = spread_times(len(chosen), generator, WORKERS, rank)
        noisy = scheduler.add_noise(clean, noise, times)
        share = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
        velocity = share.sqrt() * noise - (1 - share).sqrt() * clean
        with autocast():
            context = text(tokens)[0]
            guess = unet(noisy.to(memory_format=torch.channels_last), times, context, return_dict=False)[0]
        return (cache.weights[chosen].float() * (guess.float() - velocity) ** 2).mean()

    trainer.run(loss_of)
