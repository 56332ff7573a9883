"""Tiny random control networks that do something: folders that cards can name, and modules for diffusers' pipelines."""

import copy
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch
from by_diffusers import picture_of

from pipelines.contract.adapters import ControlCard, ControlKind
from pipelines.contract.control import Balance, ControlUse
from pipelines.contract.family import Family
from pipelines.contract.picture import Resize
from pipelines.contract.request import ImageRequest
from pipelines.families.pictures import to_picture


class Control:
    """One network: its card, and its module for diffusers (a fresh copy each time: its pipelines change some)."""

    def __init__(self, folder: Path, module: Any, family: Family, kind: ControlKind, modes: dict[str, int] | None = None) -> None:
        self._module = module.eval().requires_grad_(False)
        module.save_pretrained(folder)
        self.card = ControlCard(name=folder.name, source=f"dir:{folder}", family=family, kind=kind, modes=modes or {})

    @property
    def module(self) -> Any:
        return copy.deepcopy(self._module)

    def use(self, seed: int = 1, size: tuple[int, int] = (64, 64), **changes: Any) -> ControlUse:
        fields = {"card": self.card, "picture": to_picture(picture_of(*size, seed)), "resize": Resize.STRETCH, "weight": 0.8}
        return ControlUse(**(fields | changes))


def controlnet(folder: Path, unet: Any, family: Family, seed: int, **changes: Any) -> Control:
    """A ControlNet for ``unet``, with its zero convolutions filled."""
    torch.manual_seed(seed)
    module = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16))
    module.register_to_config(**changes)
    return Control(folder, speaking(module), family, ControlKind.CONTROLNET)


def union(folder: Path, unet: Any, seed: int) -> Control:
    torch.manual_seed(seed)
    names = (
        "flip_sin_to_cos", "freq_shift", "down_block_types", "block_out_channels", "layers_per_block", "norm_num_groups",
        "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim", "use_linear_projection",
        "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
    )  # fmt: skip
    module = diffusers.ControlNetUnionModel(
        **{name: unet.config[name] for name in names},
        conditioning_embedding_out_channels=(4, 8, 8, 16),
        num_control_type=4,
        num_trans_channel=16,
        num_trans_head=8,
        num_trans_layer=1,
        num_proj_channel=16,
    )
    torch.nn.init.normal_(module.spatial_ch_projs.weight, std=0.3)
    return Control(folder, speaking(module), Family.SDXL, ControlKind.UNION, {"pose": 0, "depth": 1, "edges": 3})


def speaking(module: Any) -> Any:
    """A new ControlNet says nothing: fill what training starts at zero."""
    silent = [module.controlnet_cond_embedding.conv_out, module.controlnet_mid_block, *module.controlnet_down_blocks]
    for convolution in silent:
        torch.nn.init.normal_(convolution.weight, std=0.2)
        torch.nn.init.normal_(convolution.bias, std=0.1)
    return module


def sd3_controlnet(folder: Path, transformer: Any, seed: int, **changes: Any) -> Control:
    torch.manual_seed(seed)
    names = (
        "sample_size", "patch_size", "attention_head_dim", "num_attention_heads", "joint_attention_dim",
        "caption_projection_dim", "pooled_projection_dim", "out_channels", "pos_embed_max_size", "qk_norm",
    )  # fmt: skip
    config = {name: transformer.config[name] for name in names} | {"in_channels": 16, "num_layers": 2} | changes
    module = diffusers.SD3ControlNetModel(**config)
    for linear in (*module.controlnet_blocks, module.pos_embed_input.proj):
        torch.nn.init.normal_(linear.weight, std=0.2)
        torch.nn.init.normal_(linear.bias, std=0.1)
    return Control(folder, module, Family.SD3, ControlKind.CONTROLNET)


def t2i_adapter(folder: Path, family: Family, seed: int, **config: Any) -> Control:
    torch.manual_seed(seed)
    return Control(folder, diffusers.T2IAdapter(**config), family, ControlKind.T2I_ADAPTER)


GUESS = {"balance": Balance.CONTROL}


def long_enough(requests: dict[str, ImageRequest], steps: int = 12) -> dict[str, ImageRequest]:
    """The requests by their names, each with its own seed, and so many steps that they meet: networks are opened one a tick."""
    made = {}
    for index, (name, asked) in enumerate(requests.items()):
        sampling = msgspec.structs.replace(asked.sampling, steps=steps)
        init = None if asked.init is None else msgspec.structs.replace(asked.init, strength=0.9)
        made[name] = msgspec.structs.replace(asked, id=name, seeds=(index,), sampling=sampling, init=init)
    return made


SAMPLERS = ("euler", "dpmpp_2m", "heun")
"""One evaluation a step, one that remembers, and two."""
