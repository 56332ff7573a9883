"""From the names in single files of the original releases to diffusers' names; what has those already is left alone."""

import re
from typing import Any

import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING, convert_controlnet_checkpoint

from pipelines.adapters.control.layout import ORIGINAL, Layout, Shapes
from pipelines.contract.errors import ModelLoadFailed

Tensors = dict[str, torch.Tensor]

_PREFIX = "control_model."
_DOWNSAMPLER = re.compile(r"input_blocks\.(\d+)\.0\.op\.weight")
_FULL = re.compile(r"body\.(\d+)\.(block1|block2|in_conv)\.(\w+)")
_LIGHT = re.compile(r"body\.(\d+)\.body\.(\d+)\.(\w+)\.(\w+)")
_RESNETS = 2
"""Of each level of a full T2I-Adapter: every release has so many."""


def renamed(tensors: Tensors, found: Layout) -> Tensors:
    """``tensors`` of a network of the kind ``found`` by diffusers' names."""
    if found is Layout.CONTROLNET and any(ORIGINAL.match(name) for name in tensors):
        return _controlnet(tensors)
    if found is Layout.T2I_ADAPTER and not any(name.startswith("adapter.") for name in tensors):
        return {_adapter(name, tensors): tensor for name, tensor in tensors.items()}
    return tensors


def _controlnet(tensors: Tensors) -> Tensors:
    if any(name.startswith(_PREFIX) for name in tensors):
        # Whole checkpoints, with the model that it was trained beside, are around too.
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    halvings = sorted(int(match[1]) for name in tensors if (match := _DOWNSAMPLER.fullmatch(name)))
    if not halvings:
        msg = "The ControlNet has no block that halves the size: it is not of an architecture known here."
        raise ModelLoadFailed(msg, param="controls")
    config: dict[str, Any] = {"layers_per_block": halvings[0] - 1}
    converted: dict[str, torch.Tensor | None] = convert_controlnet_checkpoint(tensors, config)
    # diffusers' converter leaves out how SDXL's are told sizes and pooled prompt.
    for name, theirs in DIFFUSERS_TO_LDM_MAPPING["controlnet"]["addition_embed_type"].items():
        if theirs in tensors:
            converted[name] = tensors[theirs]
    # It also names what some networks do not have.
    return {name: tensor for name, tensor in converted.items() if isinstance(tensor, torch.Tensor)}


def _adapter(name: str, shapes: Tensors | Shapes) -> str:
    """Full adapters have one row of blocks, cut into levels here; light ones are nested already."""
    if found := _LIGHT.fullmatch(name):
        return f"adapter.body.{found[1]}.resnets.{found[2]}.{found[3]}.{found[4]}"
    if any(_LIGHT.fullmatch(other) for other in shapes):
        return f"adapter.{name}"
    if found := _FULL.fullmatch(name):
        level, resnet = divmod(int(found[1]), _RESNETS)
        inner = "in_conv" if found[2] == "in_conv" else f"resnets.{resnet}.{found[2]}"
        return f"adapter.body.{level}.{inner}.{found[3]}"
    return f"adapter.{name}"
