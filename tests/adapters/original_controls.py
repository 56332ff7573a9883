"""Control networks' tensors back to the names of the original releases: the inverse of what is tested, written on its own."""

import re

import torch

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
    "controlnet_mid_block": "middle_block_out.0",
}


def _resnet(rest: str) -> str:
    head, _, leaf = rest.partition(".")
    return f"{_RESNET[head]}.{leaf}"


def controlnet(state: Tensors, layers: int, prefix: str) -> Tensors:
    """A ControlNet with ``layers`` resnets per down block."""
    out = {}
    for name, tensor in state.items():
        head, _, leaf = name.rpartition(".")
        if head in _ENDS:
            new = f"{_ENDS[head]}.{leaf}"
        elif found := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.*)", name):
            new = f"input_hint_block.{2 * int(found[1]) + 2}.{found[2]}"
        elif found := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", name):
            new = f"zero_convs.{found[1]}.0.{found[2]}"
        elif found := re.match(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            place = int(found[1]) * (layers + 1) + int(found[3]) + 1
            resnet = found[2] == "resnets"
            new = f"input_blocks.{place}.{0 if resnet else 1}.{_resnet(found[4]) if resnet else found[4]}"
        elif found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
            new = f"input_blocks.{(int(found[1]) + 1) * (layers + 1)}.0.op.{found[2]}"
        elif found := re.match(r"mid_block\.resnets\.(\d+)\.(.*)", name):
            new = f"middle_block.{2 * int(found[1])}.{_resnet(found[2])}"
        elif found := re.match(r"mid_block\.attentions\.0\.(.*)", name):
            new = f"middle_block.1.{found[1]}"
        else:
            raise KeyError(name)
        out[prefix + new] = tensor.contiguous()
    return out


def t2i_adapter(state: Tensors) -> Tensors:
    """A T2I-Adapter: full ones have one row of blocks, two for each level; light ones nest them."""
    light = any(".out_conv." in name for name in state)
    out = {}
    for name, tensor in state.items():
        plain = name.removeprefix("adapter.")
        if light:
            new = plain.replace(".resnets.", ".body.")
        elif found := re.match(r"body\.(\d+)\.in_conv\.(.*)", plain):
            new = f"body.{2 * int(found[1])}.in_conv.{found[2]}"
        elif found := re.match(r"body\.(\d+)\.resnets\.(\d+)\.(.*)", plain):
            new = f"body.{2 * int(found[1]) + int(found[2])}.{found[3]}"
        else:
            new = plain
        out[new] = tensor.contiguous()
    return out
