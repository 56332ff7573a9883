"""Trains the autoencoder, and afterwards its decoder alone on latents as inexact as sampled ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional

from scripts.demo.networks import new_vae
from scripts.demo.painting import GRID, SIDE, Pixels, training_example
from scripts.demo.recipe import SD_SCALING, SEED, STATE
from scripts.demo.trainer import WORKERS, Budget, Trainer, autocast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CROP = 64


def as_tensor(pixels: Sequence[Pixels]) -> Tensor:
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
    pool = [training_example(SEED + 7, i)[1] for i in range(count)]
    return torch.from_numpy(np.stack(pool)).permute(0, 3, 1, 2).contiguous()


def crops(pool: Tensor, step: int, count: int) -> Tensor:
    """Cut random squares from random pictures."""
    rng = random.Random(f"crops:{SEED}:{step}")
    cut: list[Tensor] = []
    room = SIDE - CROP
    for _ in range(count):
        # Mostly on the grid that things lie on; the rest so that pictures users bring are encoded sensibly, too.
        stride = GRID if rng.random() < 0.8 else 1
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
