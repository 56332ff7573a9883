"""The same request through diffusers' own pipeline, alone: what every row must equal."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import Tiny

from pipelines.contract.request import ImageRequest
from pipelines.contract.samplers import resolve
from pipelines.families.pictures import to_image
from pipelines.sampling.samplers import build


def reference(tiny: Tiny, request: ImageRequest, image: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Final latents and pixels [H, W, 3] uint8 of one image of ``request``."""
    seed = request.seeds[image]
    kind = "txt2img" if request.init is None else "img2img" if request.init.mask is None else "inpaint"
    pipeline = tiny.pipeline(kind)
    spec, schedule = resolve(request.sampling.sampler, request.sampling.scheduler)
    scheduler = build(spec, schedule, tiny.scheduler.config)
    if spec.id == "dpmpp_sde":
        scheduler = type(scheduler).from_config(scheduler.config, noise_sampler_seed=seed)
    pipeline.scheduler = scheduler
    common: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "num_inference_steps": request.sampling.steps,
        "guidance_scale": request.sampling.guidance_scale,
        "clip_skip": request.clip_skip or None,
        "output_type": "latent",
    }
    if request.sampling.guidance_rescale:
        # Only the text-to-image pipeline takes it.
        common["guidance_rescale"] = request.sampling.guidance_rescale
    if request.init is not None:
        common["image"] = to_image(request.init.picture)
        common["strength"] = request.init.strength
    if kind != "img2img":
        common |= {"width": request.width, "height": request.height}
    if kind == "inpaint":
        common["mask_image"] = to_image(request.init.mask)
    with torch.inference_mode():
        latents = pipeline(**common, generator=torch.Generator("cpu").manual_seed(seed)).images
        decoded = tiny.vae.decode(latents / tiny.vae.config.scaling_factor, return_dict=False)[0]
        (pixels,) = pipeline.image_processor.postprocess(decoded, output_type="pil")
    return latents, np.asarray(pixels)


def picture_of(width: int, height: int, seed: int) -> Image.Image:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def mask_of(width: int, height: int, seed: int) -> Image.Image:
    """A random rectangle, white on black."""
    rng = np.random.default_rng(seed)
    array = np.zeros((height, width), dtype=np.uint8)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    array[top : top + height // 2, left : left + width // 2] = 255
    return Image.fromarray(array)
