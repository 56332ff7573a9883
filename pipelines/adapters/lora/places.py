"""Where in a network the layers of a file belong: its modules by every name that trainers give them.

Besides diffusers' names there are those of the original code: Stability's UNet (``input_blocks``) and MMDiT (``joint_blocks``),
in which queries, keys and values are one projection.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from transformers import CLIPTextModel


class Place(msgspec.Struct, frozen=True):
    """A module, and which outputs of a file's layer are its."""

    module: Any
    path: str
    share: tuple[int, int] = (0, 1)
    """The first number's part of the second's: (1, 3) are the middle third of the rows."""
    swapped: bool = False
    """The two halves of its outputs are the other way round in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its weight's: [out, in] or [out, in, k, k]."""
        return tuple(self.module.weight.shape)


class Places:
    """All modules of one part of a model that a LoRA can change."""

    def __init__(self, part: Any) -> None:
        """Linear layers and convolutions of the module ``part``."""
        self._dotted: dict[str, list[Place]] = {}
        for path, module in part.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                self._dotted.setdefault(path, []).append(Place(module, path))
                for name, place in _originals(part, path, module):
                    if name != path:
                        self._dotted.setdefault(name, []).append(place)
        if isinstance(part, CLIPTextModel):
            # transformers 5 has done away with a level that every file still names.
            self._dotted |= {f"text_model.{name}": places for name, places in self._dotted.items()}
        self._flat = {name.replace(".", "_"): places for name, places in self._dotted.items()}

    def find(self, module: str, *, flat: bool) -> list[Place]:
        """Where the layer for ``module`` belongs; nowhere if the network has no such module."""
        return (self._flat if flat else self._dotted).get(module, [])


_INNER = (
    (re.compile(r"(\.resnets\.\d+)\.conv1$"), r"\1.in_layers.2"),
    (re.compile(r"(\.resnets\.\d+)\.conv2$"), r"\1.out_layers.3"),
    (re.compile(r"(\.resnets\.\d+)\.time_emb_proj$"), r"\1.emb_layers.1"),
    (re.compile(r"(\.resnets\.\d+)\.conv_shortcut$"), r"\1.skip_connection"),
)
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_DOWN = re.compile(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_UP = re.compile(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_DOWNSAMPLER = re.compile(r"down_blocks\.(\d+)\.downsamplers\.0\.conv")
_UPSAMPLER = re.compile(r"up_blocks\.(\d+)\.upsamplers\.0\.conv")

_MMDIT_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "context_embedder": "context_embedder",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_MMDIT_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
_MMDIT_INNER: dict[str, tuple[str, tuple[int, int]]] = {
    "attn.to_q": ("x_block.attn.qkv", (0, 3)),
    "attn.to_k": ("x_block.attn.qkv", (1, 3)),
    "attn.to_v": ("x_block.attn.qkv", (2, 3)),
    "attn.to_out.0": ("x_block.attn.proj", (0, 1)),
    "attn.add_q_proj": ("context_block.attn.qkv", (0, 3)),
    "attn.add_k_proj": ("context_block.attn.qkv", (1, 3)),
    "attn.add_v_proj": ("context_block.attn.qkv", (2, 3)),
    "attn.to_add_out": ("context_block.attn.proj", (0, 1)),
    "attn2.to_q": ("x_block.attn2.qkv", (0, 3)),
    "attn2.to_k": ("x_block.attn2.qkv", (1, 3)),
    "attn2.to_v": ("x_block.attn2.qkv", (2, 3)),
    "attn2.to_out.0": ("x_block.attn2.proj", (0, 1)),
    "ff.net.0.proj": ("x_block.mlp.fc1", (0, 1)),
    "ff.net.2": ("x_block.mlp.fc2", (0, 1)),
    "ff_context.net.0.proj": ("context_block.mlp.fc1", (0, 1)),
    "ff_context.net.2": ("context_block.mlp.fc2", (0, 1)),
    "norm1.linear": ("x_block.adaLN_modulation.1", (0, 1)),
    "norm1_context.linear": ("context_block.adaLN_modulation.1", (0, 1)),
}


def _originals(part: Any, path: str, module: Any) -> Iterator[tuple[str, Place]]:
    """What the original code calls the module at diffusers' ``path``, if it is a denoising network's."""
    config = part.config
    if isinstance(part, SD3Transformer2DModel):
        yield from _mmdit(part, path, module)
    elif isinstance(part, UNet2DConditionModel) and isinstance(config.layers_per_block, int):
        name = _unet(path, config.layers_per_block, [hasattr(block, "attentions") for block in part.up_blocks])
        if name is not None:
            yield name, Place(module, path)


def _mmdit(part: Any, path: str, module: Any) -> Iterator[tuple[str, Place]]:
    if path in _MMDIT_OUTER:
        # diffusers puts the scale before the shift.
        yield _MMDIT_OUTER[path], Place(module, path, swapped=path == "norm_out.linear")
    found = _MMDIT_BLOCK.fullmatch(path)
    if found is not None and found[2] in _MMDIT_INNER:
        name, share = _MMDIT_INNER[found[2]]
        last = int(found[1]) == len(part.transformer_blocks) - 1
        yield f"joint_blocks.{found[1]}.{name}", Place(module, path, share, swapped=last and found[2] == "norm1_context.linear")


def _unet(path: str, layers: int, attending: list[bool]) -> str | None:
    """The original name; ``layers`` per block on the way down, one more on the way up, of which some are ``attending``."""
    for pattern, original in _INNER:
        path = pattern.sub(original, path)
    if found := _DOWN.fullmatch(path):
        block, kind, index, rest = found.groups()
        path = f"input_blocks.{1 + int(block) * (layers + 1) + int(index)}.{int(kind == 'attentions')}.{rest}"
    elif found := _MID.fullmatch(path):
        kind, index, rest = found.groups()
        path = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{rest}"
    elif found := _UP.fullmatch(path):
        block, kind, index, rest = found.groups()
        path = f"output_blocks.{int(block) * (layers + 1) + int(index)}.{int(kind == 'attentions')}.{rest}"
    elif found := _DOWNSAMPLER.fullmatch(path):
        path = f"input_blocks.{(int(found[1]) + 1) * (layers + 1)}.0.op"
    elif found := _UPSAMPLER.fullmatch(path):
        block = int(found[1])
        path = f"output_blocks.{block * (layers + 1) + layers}.{2 if attending[block] else 1}.conv"
    else:
        return _OUTER.get(path)
    return path
