"""The same request through diffusers' own SD3 pipelines, alone: what every row of an SD3 model must equal."""

import inspect
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from tiny_sd3 import TinySD3

from pipelines.contract.request import ImageRequest
from pipelines.contract.samplers import resolve
from pipelines.families.pictures import to_image

SOLVERS: dict[str, tuple[type, dict[str, Any]]] = {
    "euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "heun": (diffusers.FlowMatchHeunDiscreteScheduler, {}),
    "lcm": (diffusers.FlowMatchLCMScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3m": (diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}),
    "dpmpp_3m_sde": (diffusers.DPMSolverMultistepScheduler, {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": (diffusers.DPMSolverSinglestepScheduler, {}),
}
FLAGS = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas", "beta": "use_beta_sigmas"}


def reference(tiny: TinySD3, request: ImageRequest, image: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Final latents and pixels [H, W, 3] uint8 of one image of ``request``."""
    generator = torch.Generator("cpu").manual_seed(request.seeds[image])
    kind = "txt2img" if request.init is None else "img2img" if request.init.mask is None else "inpaint"
    pipeline = tiny.pipeline(kind)
    spec, schedule = resolve(request.sampling.sampler, request.sampling.scheduler, flow=True)
    pipeline.scheduler = scheduler(tiny, spec.id, schedule, generator)
    steps = request.sampling.steps
    common: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": request.sampling.guidance_scale,
        "clip_skip": request.clip_skip or None,
        "output_type": "latent",
    }
    if schedule in ("simple", "sgm_uniform"):
        common["sigmas"] = np.linspace(1.0, 1.0 / steps, steps)
    if request.init is not None:
        common["image"] = to_image(request.init.picture)
        common["strength"] = request.init.strength
    if kind == "inpaint":
        common["mask_image"] = to_image(request.init.mask)
    skip = request.sampling.skip_layers
    if skip is not None and kind == "txt2img":
        common |= {
            "skip_guidance_layers": list(skip.layers),
            "skip_layer_guidance_scale": skip.scale,
            "skip_layer_guidance_start": skip.start,
            "skip_layer_guidance_stop": skip.stop,
        }
    with torch.inference_mode():
        latents = pipeline(**common, width=request.width, height=request.height, generator=generator).images
        config = tiny.vae.config
        # diffusers' inpainting pipeline forgets the shift when it decodes; the others do this.
        decoded = tiny.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
        (pixels,) = pipeline.image_processor.postprocess(decoded, output_type="pil")
    return latents, np.asarray(pixels)


def scheduler(tiny: TinySD3, sampler: str, schedule: str | None, generator: torch.Generator) -> Any:
    """diffusers' scheduler, with the two things that its SD3 pipelines leave out of what they ask of it."""
    kind, options = SOLVERS[sampler]
    if not kind.__name__.startswith("FlowMatch"):
        options = options | {
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "flow_shift": tiny.scheduler.config.shift,
        }
    if schedule in FLAGS:
        options = options | dict.fromkeys(FLAGS.values(), False) | {FLAGS[schedule]: True}
    made = kind.from_config(tiny.scheduler.config, **options)
    if "generator" in inspect.signature(made.step).parameters:
        # They do not hand their generator on, so that a solver's own noise would come from torch's global one.
        made.step = partial(made.step, generator=generator)
    if not hasattr(made, "scale_noise"):
        # They call it by the name that only the FlowMatch classes have.
        made.scale_noise = lambda sample, timestep, noise: made.add_noise(sample, noise, timestep)
    return made
