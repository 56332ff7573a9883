"""Trains a ControlNet for the demo checkpoint that draws along given edges."""

from __future__ import annotations

import json

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from scripts.demo.adapters_pictures import control_example, edges
from scripts.demo.autoencoder import as_tensor
from scripts.demo.denoiser import CHUNK, EMPTY_PROMPTS, loss_weight, spread_times
from scripts.demo.recipe import BUNDLE, CANNY, SD_SCALING, SEED, STATE
from scripts.demo.tokenizer import tokenise
from scripts.demo.trainer import WORKERS, Budget, Trainer, autocast

PICTURES = 8000
BATCH = 16


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a control network that begins as a copy of the denoiser's encoder and says nothing yet.

    The middle has no attention: with it the network would be over 8 MB, and what edges say is near where it is wanted.
    """
    torch.manual_seed(SEED + 4)
    settings = {name: unet.config[name] for name in SHARED}
    controlnet = ControlNetModel(
        **settings, mid_block_type="UNetMidBlock2D", conditioning_embedding_out_channels=(16, 32, 96, 256)
    )
    known = unet.state_dict()
    with torch.no_grad():
        for name, weight in controlnet.named_parameters():
            if name in known:
                weight.copy_(known[name])
        # Diffusers begins it at zero, too, and then nothing is learnt until the other zeros have moved: too long for 3000 steps.
        nn.init.kaiming_normal_(controlnet.controlnet_cond_embedding.conv_out.weight, a=2.0)
    return controlnet


# What must be the denoiser's own, so that what is added to its skips has their shapes.
SHARED = (
    "in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "only_cross_attention", "block_out_channels",
    "layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps",
    "cross_attention_dim", "attention_head_dim", "use_linear_projection", "upcast_attention", "resnet_time_scale_shift",
)  # fmt: skip


@torch.no_grad()
def cached_examples() -> dict[str, Tensor]:
    """Draw, encode and caption the training pictures once; later runs read the file."""
    path = STATE / "control-latents.pt"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(BUNDLE / "vae", torch_dtype=torch.float32).to(memory_format=torch.channels_last)
        tokenizer = CLIPTokenizer.from_pretrained(BUNDLE / "tokenizer")
        parts: dict[str, list[Tensor]] = {"latents": [], "weights": [], "edges": [], "tokens": []}
        for start in tqdm(range(0, PICTURES, CHUNK), desc="control pictures", mininterval=20):
            texts, pictures, masks = zip(*(control_example(SEED + 30, start + i) for i in range(CHUNK)), strict=True)
            pixels = as_tensor(pictures).to(memory_format=torch.channels_last)
            latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(20)]) * SD_SCALING
            parts["latents"].append(latents.contiguous().half())
            parts["weights"].append(loss_weight(masks))
            parts["edges"].append(torch.from_numpy(np.stack([edges(p) for p in pictures]))[:, None])
            parts["tokens"].append(tokenise(tokenizer, texts))
        torch.save({name: torch.cat(part) for name, part in parts.items()}, path)
    return torch.load(path, weights_only=True)


def train_control(budget: Budget) -> None:
    """Train the control network against the frozen, exported denoiser."""
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLE / "tokenizer")
    text = CLIPTextModel.from_pretrained(BUNDLE / "text_encoder", dtype=torch.float32).requires_grad_(requires_grad=False)
    unet = UNet2DConditionModel.from_pretrained(BUNDLE / "unet", torch_dtype=torch.float32)
    controlnet = new_controlnet(unet).to(memory_format=torch.channels_last).train()
    unet = unet.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    trainer = Trainer("control", {"controlnet": controlnet}, budget, rate=1.2e-3, decay=1e-3, average=0.99)
    cache = cached_examples()
    empty = tokenise(tokenizer, [""])
    scheduler = DDPMScheduler.from_pretrained(BUNDLE / "scheduler")

    def loss_of(step: int, rank: int) -> Tensor:
        generator = torch.Generator().manual_seed((SEED * 1_000_409 + step) * WORKERS + rank)
        count = BATCH // WORKERS
        chosen = torch.randint(PICTURES, (count,), generator=generator)
        clean = cache["latents"][chosen].float()
        said = torch.where(torch.rand((count, 1), generator=generator) < EMPTY_PROMPTS, empty, cache["tokens"][chosen])
        noise = torch.randn(clean.shape, generator=generator)
        times = spread_times(count, generator, WORKERS, rank)
        noisy = scheduler.add_noise(clean, noise, times).to(memory_format=torch.channels_last)
        lines = cache["edges"][chosen].float().expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        with autocast():
            context = text(said)[0]
            down, middle = controlnet(noisy, times, context, lines, return_dict=False)
            guess = unet(
                noisy,
                times,
                context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
        wanted = scheduler.get_velocity(clean, noise, times)
        return (cache["weights"][chosen].float() * (guess.float() - wanted) ** 2).mean()

    trainer.run(loss_of)
    trainer.use_average()
    export_control(controlnet)


def export_control(controlnet: ControlNetModel) -> None:
    """Write the control network as users load it."""
    controlnet.to(dtype=torch.float16, memory_format=torch.contiguous_format).save_pretrained(CANNY, safe_serialization=True)
    file = CANNY / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)  # where a part was loaded from while training is nobody's business
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    size = sum(f.stat().st_size for f in CANNY.rglob("*") if f.is_file())
    print(f"exported {size / 1e6:.1f} MB to {CANNY}")
