"""Several passes by hand with diffusers' own pipelines, one generator through all of them: what a hires row must equal."""

from typing import Any

import diffusers
import numpy as np
import sd3_by_diffusers
import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling
from PIL import Image

from pipelines.contract.enlarging import Enlarger
from pipelines.contract.request import ImageRequest
from pipelines.contract.samplers import resolve
from pipelines.families.pictures import to_image
from pipelines.sampling.samplers import build


def reference(
    tiny: Any, request: ImageRequest, image: int = 0, upscaler: Any = None, refiner: Any = None
) -> tuple[torch.Tensor, np.ndarray]:
    """Final latents and pixels [H, W, 3] uint8 of one image of ``request``, which has a second pass."""
    seed, hires = request.seeds[image], request.hires
    generator = torch.Generator("cpu").manual_seed(seed)
    size = {"width": request.width, "height": request.height}
    with torch.inference_mode():
        if request.init is None:
            latents = run(tiny, "txt2img", request, generator, seed, **size)
        elif request.init.strength > 0:
            picture = to_image(request.init.picture)
            latents = run(tiny, "img2img", request, generator, seed, image=picture, strength=request.init.strength)
        else:
            latents = None
        size = (hires.width, hires.height)
        if hires.enlarger is Enlarger.LATENT:
            start = F.interpolate(latents, size=[side // 8 for side in size[::-1]], mode="bilinear", antialias=False)
        else:
            start = tensor(to_image(request.init.picture)) if latents is None else decoded(tiny, latents)
            start = resized(upscaler(start) if hires.enlarger is Enlarger.MODEL else start, size)
        more: dict[str, Any] = {"image": start, "strength": hires.strength}
        if is_sd3(tiny):
            more |= {"width": hires.width, "height": hires.height}
        if refiner is not None:
            more["denoising_end"] = request.refiner.switch_at
        latents = run(tiny, "img2img", request, generator, seed, steps=hires.steps, **more)
        if refiner is not None:
            at = request.refiner.switch_at
            latents = run(refiner, "img2img", request, generator, seed, steps=hires.steps, image=latents, denoising_start=at)
        return latents, (decoded(tiny, latents)[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)


def run(tiny: Any, kind: str, request: ImageRequest, generator: Any, seed: int, *, steps: int | None = None, **more: Any) -> Any:
    pipeline = tiny.pipeline(kind)
    sampling = request.sampling
    if is_sd3(tiny):
        spec, schedule = resolve(sampling.sampler, sampling.scheduler, flow=True)
        pipeline.scheduler = sd3_by_diffusers.scheduler(tiny, spec.id, schedule, generator)
    else:
        spec, schedule = resolve(sampling.sampler, sampling.scheduler)
        pipeline.scheduler = build(spec, schedule, tiny.scheduler.config)
        if spec.id == "dpmpp_sde":
            pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, noise_sampler_seed=seed)
    return pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        num_inference_steps=steps or sampling.steps,
        guidance_scale=sampling.guidance_scale,
        output_type="latent",
        generator=generator,
        **more,
    ).images


def decoded(tiny: Any, latents: torch.Tensor) -> torch.Tensor:
    """[1, 3, H, W] in 0..1: unrounded."""
    config = tiny.vae.config
    pixels = tiny.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0), return_dict=False)[0]
    return tiny.pipeline("img2img").image_processor.postprocess(pixels, output_type="pt").cpu()


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)[None]


def resized(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Pillow's Lanczos, unrounded."""
    planes = [np.asarray(Image.fromarray(plane.numpy()).resize(size, Image.Resampling.LANCZOS)) for plane in pixels[0]]
    return torch.from_numpy(np.stack(planes))[None].clamp(0, 1)


def is_sd3(tiny: Any) -> bool:
    return isinstance(tiny.scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
