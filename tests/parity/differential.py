"""Differential diffusion as published (https://arxiv.org/abs/2306.00950, algorithm 1), written out over diffusers' parts."""

import inspect
from typing import Any

import torch
from tiny import Tiny


def differential(tiny: Tiny, scheduler: Any, picture: torch.Tensor, strengths: torch.Tensor, **asked: Any) -> torch.Tensor:
    """Final latents [1, C, h, w] of one image; ``strengths`` [1, 1, h, w] in 0..1, ``picture`` [1, 3, H, W] in -1..1.

    ``asked``: prompt, negative, steps, guidance, strength, seed. The random draws are in the order of diffusers' inpainting.
    """
    generator = torch.Generator("cpu").manual_seed(asked["seed"])
    steps, guidance = asked["steps"], asked["guidance"]
    pipeline = tiny.pipeline("img2img")
    with torch.inference_mode():
        positive, negative = pipeline.encode_prompt(asked["prompt"], tiny.device, 1, True, asked["negative"])
        original = tiny.vae.encode(picture).latent_dist.sample(generator) * tiny.vae.config.scaling_factor
        noise = torch.randn(original.shape, generator=generator)
        torch.randn(original.shape, generator=generator)  # diffusers encodes the masked picture here, for nothing
        scheduler.set_timesteps(steps)
        begin = steps - min(int(steps * asked["strength"]), steps)
        timesteps = scheduler.timesteps[begin * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin * scheduler.order)
        count = len(timesteps)
        kept = 1 - strengths > torch.arange(count).reshape(-1, 1, 1, 1) / count
        latents = scheduler.add_noise(original, noise, timesteps[:1])
        for index, at in enumerate(timesteps):
            noisy = scheduler.add_noise(original, noise, timesteps[index : index + 1])
            mask = kept[index : index + 1].to(latents.dtype)
            latents = mask * noisy + (1 - mask) * latents
            inputs = scheduler.scale_model_input(torch.cat([latents] * 2), at)
            both = tiny.unet(inputs, at, encoder_hidden_states=torch.cat([negative, positive])).sample
            without, with_prompt = both.chunk(2)
            predicted = without + guidance * (with_prompt - without)
            options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
            latents = scheduler.step(predicted, at, latents, **options).prev_sample
    return latents
