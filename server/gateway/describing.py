"""How an image was made, in words: the text that Stable Diffusion tools know, and the whole request as JSON. Pure."""

import json
from enum import Enum
from functools import cache
from typing import Any

import msgspec

from pipelines.contract.adapters import AdapterCard
from pipelines.contract.loras import tag
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest

_OURS = frozenset({"id", "seeds", "preview_every", "priority", "deadline"})
"""Fields that say nothing of this one image."""


def metadata(request: ImageRequest, seed: int) -> str:
    """The request of one image as JSON in ASCII, without what is as it would be anyway.

    Of input pictures only the size is told, of adapters the name: where their files lie is nobody's business.
    """
    told = {name: value for name, value in _compact(request).items() if name not in _OURS}
    return json.dumps({**told, "seed": seed}, separators=(",", ":"))


def _compact(value: Any) -> Any:
    if isinstance(value, Picture):
        return f"{value.width}x{value.height}"
    if isinstance(value, AdapterCard):
        return value.name
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, msgspec.Struct):
        fields = ((field, getattr(value, field.name)) for field in _fields(type(value)))
        return {field.name: _compact(found) for field, found in fields if found is not None and found != field.default}
    return [_compact(each) for each in value] if isinstance(value, tuple | list) else value


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    # Its annotations are evaluated anew each time, which takes longer than all else here.
    return msgspec.structs.fields(kind)


def told_of_upstream(request: ImageRequest, model: str) -> str:
    """The same text for a picture that ``model`` has made elsewhere: nobody knows its steps and its seed."""
    return f"{request.prompt}\nSize: {request.width}x{request.height}, Model: {model}, Version: aquatint"


def parameters(request: ImageRequest, seed: int) -> str:
    """How to make the image again, in the text form that Stable Diffusion tools read and write."""
    sampling = request.sampling
    facts: dict[str, object] = {
        "Steps": sampling.steps,
        "Sampler": sampling.sampler,
        "CFG scale": f"{sampling.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
    }
    if sampling.scheduler is not None:
        facts["Schedule type"] = sampling.scheduler
    if request.init is not None:
        facts["Denoising strength"] = f"{request.init.strength:g}"
    if request.style is not None:
        facts["Style"] = request.style.name
    if request.clip_skip:
        facts["Clip skip"] = request.clip_skip + 1
    if request.hires is not None:
        facts["Hires resize"] = f"{request.hires.width}x{request.hires.height}"
        facts["Hires upscaler"] = request.hires.card.name if request.hires.card else request.hires.enlarger.value
        facts["Hires denoising strength"] = f"{request.hires.strength:g}"
    for index, use in enumerate(request.controls):
        facts[f"ControlNet {index}"] = f'"Model: {use.card.name}, Module: {use.preprocessor or "none"}, Weight: {use.weight:g}"'
    tags = [tag(use.card.name, use.text_weight, use.weight) for use in request.loras]
    lines = [" ".join([request.prompt, *tags])]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{key}: {value}" for key, value in facts.items()) + ", Version: aquatint")
    return "\n".join(lines)
