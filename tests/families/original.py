"""diffusers' names and layouts back to those of the original checkpoints: the inverse of what is tested, written on its own."""

import re

import torch

Tensors = dict[str, torch.Tensor]

_RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
]
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _renamed(name, pairs):
    for new, old in pairs:
        name = re.sub(rf"(^|\.){new}\.", rf"\g<1>{old}.", name)
    return name


def unet(state: Tensors, layers: int) -> Tensors:
    """A UNet with ``layers`` resnets per down block, as LDM numbers its blocks."""
    attended = {
        tuple(map(int, found.groups())) for name in state if (found := re.match(r"up_blocks\.(\d+)\.attentions\.(\d+)", name))
    }
    out = {}
    for name, tensor in state.items():
        head, _, leaf = name.rpartition(".")
        if head in _UNET_ENDS:
            out[f"{_UNET_ENDS[head]}.{leaf}"] = tensor
        elif found := re.match(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            block, kind, index, rest = int(found[1]), found[2], int(found[3]), found[4]
            place = f"input_blocks.{block * (layers + 1) + index + 1}.{int(kind == 'attentions')}"
            out[f"{place}.{_renamed(rest, _RESNET) if kind == 'resnets' else rest}"] = tensor
        elif found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
            out[f"input_blocks.{(int(found[1]) + 1) * (layers + 1)}.0.op.{found[2]}"] = tensor
        elif found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
            place = f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}"
            out[f"{place}.{_renamed(found[3], _RESNET) if found[1] == 'resnets' else found[3]}"] = tensor
        elif found := re.match(r"up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            block, kind, index, rest = int(found[1]), found[2], int(found[3]), found[4]
            place = f"output_blocks.{block * (layers + 1) + index}.{int(kind == 'attentions')}"
            out[f"{place}.{_renamed(rest, _RESNET) if kind == 'resnets' else rest}"] = tensor
        elif found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
            block = int(found[1])
            after = 2 if (block, layers) in attended else 1
            out[f"output_blocks.{block * (layers + 1) + layers}.{after}.conv.{found[2]}"] = tensor
        else:
            raise KeyError(name)
    return {f"model.diffusion_model.{name}": tensor for name, tensor in out.items()}


def vae(state: Tensors, blocks: int, prefix: str = "first_stage_model.") -> Tensors:
    """An autoencoder of ``blocks`` levels; its one attention is 1x1 convolutions, and decoder levels count from the last."""
    attention = [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), (r"to_out\.0", "proj_out")]
    out = {}
    for name, tensor in state.items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        value = tensor
        if "mid_block.attentions.0" in new:
            new = _renamed(new.replace("mid_block.attentions.0", "mid.attn_1"), attention)
            if tensor.ndim == 2:
                value = tensor[:, :, None, None].contiguous()
        out[prefix + new] = value
    return out


def clip(state: Tensors, prefix: str) -> Tensors:
    """Hugging Face's own layout below ``prefix``; every release but transformers 5 has the level ``text_model``."""
    return {
        prefix + (name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"): tensor.clone()
        for name, tensor in state.items()
    }


def open_clip(state: Tensors, prefix: str) -> Tensors:
    """open_clip's layout: one projection for queries, keys and values, and the text projection transposed."""
    pairs = [("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("fc1", "c_fc"), ("fc2", "c_proj"), ("self_attn", "attn")]
    plain = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    out = {}
    for name, tensor in state.items():
        if name in plain:
            out[plain[name]] = tensor
        elif name == "text_projection.weight":
            out["text_projection"] = tensor.T.contiguous()
        elif found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            fused = [state[name.replace("q_proj", f"{which}_proj")] for which in "qkv"]
            out[f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = torch.cat(fused)
        elif not re.search(r"\.[kv]_proj\.", name):
            out[_renamed(name.replace("encoder.layers.", "transformer.resblocks."), pairs)] = tensor
    return {prefix + name: tensor for name, tensor in out.items()}


def mmdit(state: Tensors) -> Tensors:
    """SD 3's transformer: fused projections, and shift before scale in the last modulations."""
    ends = {
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }
    inner = [
        (r"norm1\.linear", "x_block.adaLN_modulation.1"),
        (r"norm1_context\.linear", "context_block.adaLN_modulation.1"),
        (r"ff\.net\.0\.proj", "x_block.mlp.fc1"),
        (r"ff\.net\.2", "x_block.mlp.fc2"),
        (r"ff_context\.net\.0\.proj", "context_block.mlp.fc1"),
        (r"ff_context\.net\.2", "context_block.mlp.fc2"),
        (r"attn\.to_out\.0", "x_block.attn.proj"),
        (r"attn2\.to_out\.0", "x_block.attn2.proj"),
        (r"attn\.to_add_out", "context_block.attn.proj"),
        (r"attn\.norm_q", "x_block.attn.ln_q"),
        (r"attn\.norm_k", "x_block.attn.ln_k"),
        (r"attn2\.norm_q", "x_block.attn2.ln_q"),
        (r"attn2\.norm_k", "x_block.attn2.ln_k"),
        (r"attn\.norm_added_q", "context_block.attn.ln_q"),
        (r"attn\.norm_added_k", "context_block.attn.ln_k"),
    ]
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    out = {}
    for name, tensor in state.items():
        head, _, leaf = name.rpartition(".")
        swapped = torch.cat(tensor.chunk(2)[::-1])
        if name in ends:
            out[ends[name]] = tensor
        elif head in ends:
            out[f"{ends[head]}.{leaf}"] = swapped if head == "norm_out.linear" else tensor
        elif found := re.fullmatch(r"transformer_blocks\.(\d+)\.(attn2?)\.(to|add)_q(?:_proj)?\.(weight|bias)", name):
            fused = torch.cat([state[re.sub(r"_q(_proj)?\.(\w+)$", rf"_{which}\1.\2", name)] for which in "qkv"])
            side = "x_block" if found[3] == "to" else "context_block"
            out[f"joint_blocks.{found[1]}.{side}.{found[2]}.qkv.{found[4]}"] = fused
        elif not re.search(r"\.(to|add)_[kv](_proj)?\.", name):
            last_context = name.startswith(f"transformer_blocks.{last}.norm1_context")
            renamed = _renamed(name, inner).replace("transformer_blocks.", "joint_blocks.")
            out[renamed] = swapped if last_context else tensor
    return {f"model.diffusion_model.{name}": tensor for name, tensor in out.items()}
