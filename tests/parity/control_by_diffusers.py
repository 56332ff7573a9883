"""The same request with control images through diffusers' own pipelines, alone."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from tiny import Tiny
from tiny_controls import Control
from tiny_sd3 import TinySD3
from tiny_sdxl import TinyXL

from pipelines.contract.adapters import ControlKind
from pipelines.contract.control import Balance
from pipelines.contract.request import ImageRequest
from pipelines.contract.samplers import resolve
from pipelines.families.pictures import to_image
from pipelines.sampling.samplers import build

SD = {
    "txt2img": diffusers.StableDiffusionControlNetPipeline,
    "img2img": diffusers.StableDiffusionControlNetImg2ImgPipeline,
    "inpaint": diffusers.StableDiffusionControlNetInpaintPipeline,
}
XL = {
    "txt2img": diffusers.StableDiffusionXLControlNetPipeline,
    "img2img": diffusers.StableDiffusionXLControlNetImg2ImgPipeline,
    "inpaint": diffusers.StableDiffusionXLControlNetInpaintPipeline,
}
UNION = {
    "txt2img": diffusers.StableDiffusionXLControlNetUnionPipeline,
    "img2img": diffusers.StableDiffusionXLControlNetUnionImg2ImgPipeline,
    "inpaint": diffusers.StableDiffusionXLControlNetUnionInpaintPipeline,
}


def reference(
    tiny: Tiny | TinyXL | TinySD3, request: ImageRequest, controls: Mapping[str, Control], image: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    """Final latents and pixels [H, W, 3] uint8 of one image of ``request``; ``controls`` are the networks by name."""
    kind = "txt2img" if request.init is None else "img2img" if request.init.mask is None else "inpaint"
    uses = request.controls
    pictures = [to_image(use.picture).convert("RGB") for use in uses]
    one = len(uses) == 1
    asked: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "num_inference_steps": request.sampling.steps,
        "guidance_scale": request.sampling.guidance_scale,
        "output_type": "latent",
    }
    if kind != "img2img":
        asked |= {"width": request.width, "height": request.height}
    modules = [controls[use.card.name].module for use in uses]
    adapter = uses[0].card.kind is ControlKind.T2I_ADAPTER
    if adapter:
        pipeline = _adapter_pipeline(tiny, modules)
        asked["adapter_conditioning_scale"] = uses[0].weight if one else [use.weight for use in uses]
        if isinstance(tiny, TinyXL):
            asked["adapter_conditioning_factor"] = uses[0].end
    elif isinstance(tiny, TinySD3):
        pipeline = _sd3_pipeline(tiny, modules)
        asked |= _shares(uses)
    elif uses[0].card.kind is ControlKind.UNION:
        assert all(use.card == uses[0].card for use in uses)
        pipeline = _pipeline(UNION[kind], tiny, modules[0])
        one = False
        asked |= _shares(uses) | {"control_mode": [use.card.modes[use.mode] for use in uses]}
    else:
        classes = XL if isinstance(tiny, TinyXL) else SD
        pipeline = _pipeline(classes[kind], tiny, modules[0] if one else modules)
        asked |= _shares(uses)
    if any(use.balance is not Balance.BALANCED for use in uses):
        asked["guess_mode"] = True
    union_or_sd3 = isinstance(tiny, TinySD3) or uses[0].card.kind is ControlKind.UNION
    where = "control_image" if union_or_sd3 or request.init is not None else "image"
    asked[where] = pictures[0] if one else pictures
    if request.init is not None:
        asked |= {"image": to_image(request.init.picture), "strength": request.init.strength}
    if kind == "inpaint":
        asked["mask_image"] = to_image(request.init.mask)
    return _run(tiny, pipeline, request, asked, image)


def _run(tiny: Any, pipeline: Any, request: ImageRequest, asked: dict[str, Any], image: int) -> tuple[torch.Tensor, np.ndarray]:
    seed = request.seeds[image]
    if isinstance(tiny, TinySD3):
        from sd3_by_diffusers import scheduler

        spec, schedule = resolve(request.sampling.sampler, request.sampling.scheduler, flow=True)
        generator = torch.Generator("cpu").manual_seed(seed)
        pipeline.scheduler = scheduler(tiny, spec.id, schedule, generator)
    else:
        spec, schedule = resolve(request.sampling.sampler, request.sampling.scheduler)
        pipeline.scheduler = build(spec, schedule, tiny.scheduler.config)
        generator = torch.Generator("cpu").manual_seed(seed)
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        latents = pipeline(**asked, generator=generator).images
        config = tiny.vae.config
        decoded = tiny.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0), return_dict=False)[0]
        processor = diffusers.image_processor.VaeImageProcessor()
        (pixels,) = processor.postprocess(decoded, output_type="pil")
    return latents, np.asarray(pixels)


def _shares(uses: Any) -> dict[str, Any]:
    one = len(uses) == 1 and uses[0].card.kind is not ControlKind.UNION
    listed = (lambda each: each[0]) if one else list
    return {
        "controlnet_conditioning_scale": listed([use.weight for use in uses]),
        "control_guidance_start": listed([use.start for use in uses]),
        "control_guidance_end": listed([use.end for use in uses]),
    }


def _pipeline(kind: Any, tiny: Tiny | TinyXL, controlnet: Any) -> Any:
    common = {
        "vae": tiny.vae,
        "text_encoder": tiny.text_encoder,
        "tokenizer": tiny.tokenizer,
        "unet": tiny.unet,
        "scheduler": tiny.scheduler,
        **({} if controlnet is None else {"controlnet": controlnet}),
    }
    if isinstance(tiny, TinyXL):
        common |= {"text_encoder_2": tiny.text_encoder_2, "tokenizer_2": tiny.tokenizer}
        if "Adapter" not in kind.__name__:
            common["add_watermarker"] = False
        return kind(**common, force_zeros_for_empty_prompt=tiny.zeros)
    return kind(**common, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def _adapter_pipeline(tiny: Tiny | TinyXL, modules: list[Any]) -> Any:
    xl = isinstance(tiny, TinyXL)
    kind = diffusers.StableDiffusionXLAdapterPipeline if xl else diffusers.StableDiffusionAdapterPipeline
    adapter = modules[0] if len(modules) == 1 else diffusers.MultiAdapter(modules)
    made = partial(kind, adapter=adapter)
    made.__name__ = kind.__name__  # type: ignore[attr-defined]
    return _pipeline(made, tiny, None)


def _sd3_pipeline(tiny: TinySD3, modules: list[Any]) -> Any:
    return diffusers.StableDiffusion3ControlNetPipeline(
        transformer=tiny.transformer,
        scheduler=tiny.scheduler,
        vae=tiny.vae,
        text_encoder=tiny.text_encoder,
        tokenizer=tiny.tokenizer,
        text_encoder_2=tiny.text_encoder_2,
        tokenizer_2=tiny.tokenizer,
        text_encoder_3=tiny.text_encoder_3,
        tokenizer_3=tiny.tokenizer_3,
        controlnet=modules[0] if len(modules) == 1 else diffusers.SD3MultiControlNetModel(modules),
    )
