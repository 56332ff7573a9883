"""Trains the demo's two LoRAs: styles that captions do not speak of."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from scripts.demo.adapters_pictures import Style, styled_example
from scripts.demo.autoencoder import as_tensor, crops, picture_loss
from scripts.demo.denoiser import CHUNK, EMPTY_PROMPTS, loss_weight, spread_times
from scripts.demo.recipe import BUNDLE, LORAS, SD_SCALING, SEED, STATE
from scripts.demo.tokenizer import tokenise
from scripts.demo.trainer import Budget, Trainer, autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PICTURES = 2000
BATCH = 16
RANK: dict[Style, int] = {"outline": 32, "two-tone": 8}
# Attention, feed-forward and the convolutions between: a style is drawn by the convolutions, which prompts do not reach.
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2", "conv1", "conv2", "time_emb_proj"]
# Kohya's layout has a place for it in the file, and half the rank is usual there; diffusers' has not, so it is the rank.
ALPHA: dict[Style, int] = {"outline": 16, "two-tone": 8}
# A line that is one latent pixel wide costs the latents' loss next to nothing where it has a gap. So outlines are looked at, too:
# what a guess at an early enough timestep decodes to is compared with the picture, edges above all.
SEEN_BELOW, SEEN_WEIGHT = 500, 1.0


def train_encoder(budget: Budget) -> None:
    """Teach a copy of the encoder to see outlines, through the frozen decoder; it is used for training alone.

    The demo's autoencoder has met filled shapes only: lines go in and come out of it in other colours, though its decoder can
    draw them. What the encoder says after this, the decoder draws.
    """
    vae = AutoencoderKL.from_pretrained(BUNDLE / "vae", torch_dtype=torch.float32).to(memory_format=torch.channels_last)
    vae.requires_grad_(requires_grad=False)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(requires_grad=True)
    trainer = Trainer("lines", {"vae": vae}, budget, rate=1e-3, decay=1e-4, average=0.99, workers=1)
    pictures = [styled_example("outline", SEED + 50, i)[1] for i in range(400)]
    pool = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    def loss_of(step: int, _rank: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 1_000_541 + step)
        wanted = crops(pool, step + 20_000_000, 16).to(memory_format=torch.channels_last)
        with autocast():
            mean = vae.encode(wanted).latent_dist.mean
            made = vae.decode(mean + 0.15 / SD_SCALING * torch.randn(mean.shape, generator=generator)).sample
        return picture_loss(made.float(), wanted)

    trainer.run(loss_of)
    trainer.use_average()
    vae.to(memory_format=torch.contiguous_format).save_pretrained(STATE / "vae-lines")


@torch.no_grad()
def cached_examples(style: Style) -> dict[str, Tensor]:
    """Draw, encode and caption the pictures of a style once; later runs read the file."""
    path = STATE / f"{style}-latents.pt"
    if not path.exists():
        folder = STATE / "vae-lines" if style == "outline" else BUNDLE / "vae"
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).to(memory_format=torch.channels_last)
        tokenizer = CLIPTokenizer.from_pretrained(BUNDLE / "tokenizer")
        parts: dict[str, list[Tensor]] = {"latents": [], "weights": [], "tokens": []}
        for start in tqdm(range(0, PICTURES, CHUNK), desc=f"{style} pictures", mininterval=20):
            texts, pictures, masks = zip(*(styled_example(style, SEED + 40, start + i) for i in range(CHUNK)), strict=True)
            pixels = as_tensor(pictures).to(memory_format=torch.channels_last)
            latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(20)]) * SD_SCALING
            parts["latents"].append(latents.contiguous().half())
            parts["weights"].append(loss_weight(masks))
            parts["tokens"].append(tokenise(tokenizer, texts))
        torch.save({name: torch.cat(part) for name, part in parts.items()}, path)
    return torch.load(path, weights_only=True)


def cached_pictures(style: Style) -> Tensor:
    """Draw the pictures of a style once, as bytes; later runs read the file."""
    path = STATE / f"{style}-pictures.pt"
    if not path.exists():
        pictures = [styled_example(style, SEED + 40, index)[1] for index in range(PICTURES)]
        torch.save(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), path)
    return torch.load(path, weights_only=True)


def seen_loss(scheduler: DDPMScheduler) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return a function of noisy latents, guessed velocities, timesteps and pictures (bytes): how unlike the pictures look."""
    vae = AutoencoderKL.from_pretrained(BUNDLE / "vae", torch_dtype=torch.float32).to(memory_format=torch.channels_last)
    vae.requires_grad_(requires_grad=False)

    def loss_of(noisy: Tensor, guess: Tensor, times: Tensor, pictures: Tensor) -> Tensor:
        kept = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
        clean = kept.sqrt() * noisy - (1 - kept).sqrt() * guess
        with autocast():
            made = vae.decode(clean.to(memory_format=torch.channels_last) / SD_SCALING).sample
        return picture_loss(made.float(), pictures.float().div(127.5).sub(1))

    return loss_of


def train_style(style: Style, budget: Budget) -> None:
    """Train a LoRA of the frozen, exported denoiser on pictures of a style."""
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLE / "tokenizer")
    text = CLIPTextModel.from_pretrained(BUNDLE / "text_encoder", dtype=torch.float32).requires_grad_(requires_grad=False)
    unet = UNet2DConditionModel.from_pretrained(BUNDLE / "unet", torch_dtype=torch.float32).requires_grad_(requires_grad=False)
    torch.manual_seed(SEED + 5)
    unet.add_adapter(LoraConfig(r=RANK[style], lora_alpha=ALPHA[style], init_lora_weights="gaussian", target_modules=TARGETS))
    unet = unet.to(memory_format=torch.channels_last).train()
    trainer = Trainer(style, {"unet": unet}, budget, rate=2e-3, decay=1e-3, average=0.99, workers=1)
    cache = cached_examples(style)
    empty = tokenise(tokenizer, [""])
    scheduler = DDPMScheduler.from_pretrained(BUNDLE / "scheduler")
    seen, pictures = (seen_loss(scheduler), cached_pictures(style)) if style == "outline" else (None, None)

    def loss_of(step: int, _rank: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 1_000_609 + step)
        chosen = torch.randint(PICTURES, (BATCH,), generator=generator)
        clean = cache["latents"][chosen].float()
        said = torch.where(torch.rand((BATCH, 1), generator=generator) < EMPTY_PROMPTS, empty, cache["tokens"][chosen])
        noise = torch.randn(clean.shape, generator=generator)
        times = spread_times(BATCH, generator)
        noisy = scheduler.add_noise(clean, noise, times).to(memory_format=torch.channels_last)
        with autocast():
            guess = unet(noisy, times, text(said)[0], return_dict=False)[0]
        wanted = scheduler.get_velocity(clean, noise, times)
        loss = (cache["weights"][chosen].float() * (guess.float() - wanted) ** 2).mean()
        if seen is None or pictures is None:
            return loss
        early = times < SEEN_BELOW
        return loss + SEEN_WEIGHT * seen(noisy[early], guess.float()[early], times[early], pictures[chosen[early]])

    trainer.run(loss_of)
    trainer.use_average()
    weights = {name: weight.detach().half().contiguous() for name, weight in get_peft_model_state_dict(unet).items()}
    export_lora(style, weights)


def kohya_layout(weights: Mapping[str, Tensor], alpha: int) -> dict[str, Tensor]:
    """Rename PEFT's weights as kohya's trainers and A1111 know them: `lora_unet_..._to_q.lora_down.weight` and an alpha each."""
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        module, part = name.removesuffix(".weight").rsplit(".", 1)
        layer = f"lora_unet_{module.replace('.', '_')}"
        renamed[f"{layer}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = weight
        renamed[f"{layer}.alpha"] = torch.tensor(float(alpha), dtype=torch.float16)
    return renamed


def export_lora(style: Style, weights: Mapping[str, Tensor]) -> None:
    """Write a LoRA as users find them: the outline in kohya's layout, the two tones in diffusers' own."""
    file = LORAS / f"{style}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    if style == "outline":
        notes = {"ss_network_module": "networks.lora", "ss_network_dim": str(RANK[style]), "ss_network_alpha": str(ALPHA[style])}
        save_file(kohya_layout(weights, ALPHA[style]), file, metadata=notes)
    else:
        save_file({f"unet.{name}": weight for name, weight in weights.items()}, file, metadata={"format": "pt"})
    print(f"exported {file.stat().st_size / 1e6:.2f} MB to {file}")


train_outline = partial(train_style, "outline")
train_two_tone = partial(train_style, "two-tone")
