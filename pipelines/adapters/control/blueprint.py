"""diffusers' config of a control network that comes without one: from the shapes of its tensors, and from the model.

A ControlNet is a copy of the encoder of the model it was trained for, so what shapes do not tell (heads, groups, how timesteps
are embedded) is the model's. If it was trained for another kind of model it fits nothing, and that is found out by its widths.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffusers import ControlNetModel, ControlNetUnionModel, SD3ControlNetModel

from pipelines.adapters.control.layout import Layout, Shapes
from pipelines.contract.errors import ModelLoadFailed

_ADAPTERS = {64: (1, 8), 192: (3, 8), 256: (1, 16), 768: (3, 16)}
"""Channels and pixels along a side of what a T2I-Adapter takes as one, by how many numbers those are."""

_SDXL_SIDE = 16


def blueprint(shapes: Shapes, found: Layout, model: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the network ``found`` with these ``shapes`` (diffusers' names) beside a network with the config ``model``.

    Raises `ModelLoadFailed` for names that no such network has.
    """
    try:
        if found is Layout.T2I_ADAPTER:
            return _adapter(shapes)
        return _transformer(shapes, model) if found is Layout.SD3 else _encoder(shapes, found, model)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        msg = f"{found.value[0].upper()}{found.value[1:]} that is incomplete, or of an architecture not known here: {error!r}."
        raise ModelLoadFailed(msg, param="controls") from error


def _encoder(shapes: Shapes, found: Layout, model: Mapping[str, Any]) -> dict[str, Any]:
    kind = ControlNetUnionModel if found is Layout.UNION else ControlNetModel
    config = {name: model[name] for name in inspect.signature(kind.__init__).parameters if name in model}
    blocks = range(_count(shapes, r"down_blocks\.(\d+)\."))
    depths = [_count(shapes, rf"down_blocks\.{block}\.attentions\.0\.transformer_blocks\.(\d+)\.") for block in blocks]
    middle = _count(shapes, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    attends = [f"down_blocks.{block}.attentions.0.norm.weight" in shapes for block in blocks]
    depths = [depth if each else 1 for depth, each in zip(depths, attends, strict=True)]
    if not attends[-1]:
        depths[-1] = max(1, middle)  # what the config says of the last block holds for the middle too
    keys = [shape for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
    projections = [shape for name, shape in shapes.items() if name.endswith("attentions.0.proj_in.weight")]
    hint = "controlnet_cond_embedding"
    config |= {
        "in_channels": shapes["conv_in.weight"][1],
        "conditioning_channels": shapes[f"{hint}.conv_in.weight"][1],
        "conditioning_embedding_out_channels": (
            shapes[f"{hint}.conv_in.weight"][0],
            *(shapes[f"{hint}.blocks.{index}.weight"][0] for index in range(1, _count(shapes, rf"{hint}\.blocks\.(\d+)\."), 2)),
        ),
        "block_out_channels": tuple(shapes[f"down_blocks.{block}.resnets.0.conv1.weight"][0] for block in blocks),
        "down_block_types": tuple("CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends),
        "layers_per_block": _count(shapes, r"down_blocks\.0\.resnets\.(\d+)\."),
        "transformer_layers_per_block": tuple(depths),
        "addition_embed_type": "text_time" if "add_embedding.linear_1.weight" in shapes else None,
    }
    if keys:
        config["cross_attention_dim"] = keys[0][1]
        config["use_linear_projection"] = len(projections[0]) == 2  # noqa: PLR2004 - a matrix, not a convolution
    if config["addition_embed_type"]:
        config["projection_class_embeddings_input_dim"] = shapes["add_embedding.linear_1.weight"][1]
    if found is Layout.UNION:
        config |= _union(shapes)
    else:
        config["mid_block_type"] = (
            "UNetMidBlock2DCrossAttn" if "mid_block.attentions.0.norm.weight" in shapes else "UNetMidBlock2D"
        )
    return config


def _union(shapes: Shapes) -> dict[str, Any]:
    types, width = shapes["task_embedding"]
    return {
        "num_control_type": types,
        "num_trans_channel": width,
        "num_trans_layer": _count(shapes, r"transformer_layes\.(\d+)\."),
        "num_proj_channel": shapes["spatial_ch_projs.weight"][0],
    }


def _transformer(shapes: Shapes, model: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: model[name] for name in inspect.signature(SD3ControlNetModel.__init__).parameters if name in model}
    count = _count(shapes, r"transformer_blocks\.(\d+)\.")
    text = shapes.get("context_embedder.weight")
    dual = [index for index in range(count) if f"transformer_blocks.{index}.attn2.to_q.weight" in shapes]
    positions = shapes.get("pos_embed.pos_embed")
    config |= {
        "num_layers": count,
        "in_channels": shapes["pos_embed.proj.weight"][1] if positions else model["in_channels"],
        "joint_attention_dim": None if text is None else text[1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "dual_attention_layers": tuple(dual),
        "qk_norm": "rms_norm" if "transformer_blocks.0.attn.norm_q.weight" in shapes else None,
        "use_pos_embed": positions is not None,
    }
    if positions is not None:
        config["pos_embed_max_size"] = round(positions[1] ** 0.5)
    if text is not None:
        config["caption_projection_dim"] = text[0]
    config["extra_conditioning_channels"] = shapes["pos_embed_input.proj.weight"][1] - config["in_channels"]
    # Those without text of their own (SD 3.5 large) are told the pooled prompt; InstantX's, which have it, are not.
    config["force_zeros_for_pooled_projection"] = text is not None
    return config


def _adapter(shapes: Shapes) -> dict[str, Any]:
    light = "adapter.body.0.out_conv.weight" in shapes
    levels = range(_count(shapes, r"adapter\.body\.(\d+)\."))
    first = shapes["adapter.body.0.in_conv.weight" if light else "adapter.conv_in.weight"]
    channels, side = _ADAPTERS[first[1]]
    inner = "out_conv" if light else "resnets.0.block1"
    widths = [shapes[f"adapter.body.{level}.{inner}.weight"][0] for level in levels]
    full = "full_adapter_xl" if side == _SDXL_SIDE else "full_adapter"
    return {
        "in_channels": channels,
        "downscale_factor": side,
        "channels": widths[:-1] if light else widths,
        "num_res_blocks": _count(shapes, r"adapter\.body\.0\.resnets\.(\d+)\."),
        "adapter_type": "light_adapter" if light else full,
    }


def _count(names: Iterable[str], pattern: str) -> int:
    """How many numbers, from 0, stand where ``pattern`` has its group."""
    found = re.compile(pattern)
    return max((int(match[1]) for name in names if (match := found.match(name))), default=-1) + 1
