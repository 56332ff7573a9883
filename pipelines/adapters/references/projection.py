"""From what the image encoder says to tokens: diffusers' modules, filled from the names that IP-Adapter's own files use."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterFullImageProjection, IPAdapterPlusImageProjection

from pipelines.adapters.references.layout import Layout, Variant

Tensors = dict[str, torch.Tensor]

_HEAD = 64
"""Channels of one of the resampler's heads."""

_FULL = {"proj.0.": "ff.net.0.proj.", "proj.2.": "ff.net.2.", "proj.3.": "norm."}

_PLUS = {
    "0.norm1": "ln0",
    "0.norm2": "ln1",
    "0.to_q": "attn.to_q",
    "0.to_kv": "attn.to_kv",
    "0.to_out": "attn.to_out.0",
    "1.0": "ff.0",
    "1.1": "ff.1.net.0.proj",
    "1.3": "ff.1.net.2",
}
"""Within each of the resampler's layers: attention is its part 0, the feed-forward its part 1."""

_LAYER = re.compile(r"(layers\.\d+)\.(\d\.\w+)\.(\w+)")


def blank(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The module for tensors of ``shapes`` (without ``image_proj.``), its weights on the meta device.

    Raises `KeyError` for a tensor that says how large it is and is missing.
    """
    with torch.device("meta"):  # of this thread only, unlike torch's default dtype
        if layout.variant is Variant.PLAIN:
            count = shapes["proj.weight"][0] // layout.width
            return ImageProjection(layout.image_width, layout.width, count)
        if layout.variant is Variant.FULL:
            return IPAdapterFullImageProjection(layout.image_width, layout.width)
        _, queries, inner = shapes["latents"]
        return IPAdapterPlusImageProjection(
            embed_dims=layout.image_width,
            output_dims=layout.width,
            hidden_dims=inner,
            depth=len({key.split(".")[1] for key in shapes if key.startswith("layers.")}),
            dim_head=_HEAD,
            heads=shapes["layers.0.0.to_q.weight"][0] // _HEAD,
            num_queries=queries,
            ffn_ratio=shapes["layers.0.1.1.weight"][0] / inner,
        )


def renamed(layout: Layout, tensors: Tensors) -> Tensors:
    """``tensors`` (without ``image_proj.``) under the names of diffusers' module."""
    if layout.variant is Variant.PLAIN:
        return {key.replace("proj.", "image_embeds."): tensor for key, tensor in tensors.items()}
    if layout.variant is Variant.FULL:
        return {_FULL.get(key[:7], key[:7]) + key[7:]: tensor for key, tensor in tensors.items()}
    found: Tensors = {}
    for key, tensor in tensors.items():
        name = _LAYER.sub(lambda part: f"{part[1]}.{_PLUS.get(part[2], part[2])}.{part[3]}", key)
        if ".to_kv." in name:
            found[name.replace("to_kv", "to_k")], found[name.replace("to_kv", "to_v")] = tensor.chunk(2)
        else:
            found[name] = tensor
    return found
