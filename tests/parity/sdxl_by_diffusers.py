"""The same request through diffusers' own SDXL pipelines, alone: what every row must equal."""

from typing import Any

import numpy as np
import torch
from tiny_sdxl import TinyXL

from pipelines.contract.request import ImageRequest, SizeConditioning
from pipelines.contract.samplers import resolve
from pipelines.families.pictures import to_image
from pipelines.sampling.samplers import build


def reference(
    tiny: TinyXL, request: ImageRequest, image: int = 0, refiner: TinyXL | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """Final latents and pixels [H, W, 3] uint8 of one image of ``request``; ``refiner`` is the one that the request names."""
    seed = request.seeds[image]
    generator = torch.Generator("cpu").manual_seed(seed)
    kind = "txt2img" if request.init is None else "img2img" if request.init.mask is None else "inpaint"
    pipeline = _pipeline(tiny, kind, request, seed)
    asked = _common(tiny, kind, request)
    if request.init is not None:
        asked["image"] = to_image(request.init.picture)
        asked["strength"] = request.init.strength
    if kind != "img2img":
        asked |= {"width": request.width, "height": request.height}
    if kind == "inpaint":
        asked["mask_image"] = to_image(request.init.mask)
    if request.refiner is not None:
        asked["denoising_end"] = request.refiner.switch_at
    with torch.inference_mode():
        latents = pipeline(**asked, generator=generator).images
        if request.refiner is not None:
            pipeline = _pipeline(refiner, "img2img", request, seed)
            more = _common(refiner, "img2img", request)
            start = request.refiner.switch_at
            latents = pipeline(**more, image=latents, denoising_start=start, generator=generator).images
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
        (pixels,) = pipeline.image_processor.postprocess(decoded, output_type="pil")
    return latents, np.asarray(pixels)


def _pipeline(tiny: TinyXL, kind: str, request: ImageRequest, seed: int) -> Any:
    pipeline = tiny.pipeline(kind)
    spec, schedule = resolve(request.sampling.sampler, request.sampling.scheduler)
    scheduler = build(spec, schedule, tiny.scheduler.config)
    if spec.id == "dpmpp_sde":
        scheduler = type(scheduler).from_config(scheduler.config, noise_sampler_seed=seed)
    pipeline.scheduler = scheduler
    return pipeline


def _common(tiny: TinyXL, kind: str, request: ImageRequest) -> dict[str, Any]:
    sizes = request.sizes or SizeConditioning()
    asked: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "num_inference_steps": request.sampling.steps,
        "guidance_scale": request.sampling.guidance_scale,
        "guidance_rescale": request.sampling.guidance_rescale,
        "clip_skip": request.clip_skip or None,
        "crops_coords_top_left": sizes.crop[::-1],
        "output_type": "latent",
    }
    if sizes.original is not None:
        asked["original_size"] = sizes.original[::-1]
    if sizes.target is not None:
        asked["target_size"] = sizes.target[::-1]
    if kind != "txt2img":
        # Text-to-image gives the negative prompt the same crop; the other two pipelines none, unless told.
        asked["negative_crops_coords_top_left"] = sizes.crop[::-1]
    if tiny.refiner:
        asked |= {"aesthetic_score": sizes.aesthetic_score, "negative_aesthetic_score": sizes.negative_aesthetic_score}
    return asked
