"""ControlNet for UNets (https://arxiv.org/abs/2302.05543): a copy of the encoder that adds to each skip connection."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pipelines.adapters.control.fit import check_widths
from pipelines.adapters.control.network import Asked, Said
from pipelines.adapters.control.picture import CHANNELS, numbers
from pipelines.adapters.control.scaling import scaled
from pipelines.contract.errors import Unsupported
from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Family
from pipelines.families.residuals import Residuals
from pipelines.families.weights import ModuleWeights


class ControlNet:
    """A loaded ``ControlNetModel``, cut in two: what it reads of a picture is the same at every step, so it is read once."""

    __slots__ = ("_embed", "_flips", "_module", "_name", "bytes", "fused", "positive_only")

    def __init__(self, name: str, module: Any) -> None:
        """Take a module that is on its device, in evaluation mode; it is changed."""
        self.bytes = ModuleWeights(module).bytes
        self.fused = False
        # Networks that pool their residuals (shuffle) were trained to speak to the positive prompt only.
        self.positive_only = bool(module.config.global_pool_conditions)
        self._name, self._module = name, module
        self._embed = module.controlnet_cond_embedding
        self._flips = module.config.controlnet_conditioning_channel_order == "bgr"
        module.controlnet_cond_embedding = torch.nn.Identity()
        module.register_to_config(controlnet_conditioning_channel_order="rgb")

    def check(self, family: Family) -> None:
        """As `ControlNetwork` says."""
        check_encoder(self._name, self._module.config, self._embed.conv_in.in_channels, family)

    def hint(self, picture: Image.Image, family: Family, mode: int) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """Its features, [1, width of the first block, h, w]."""
        return (embedded(self._embed, picture, family, flip=self._flips),)

    def speak(self, family: Family, asked: Asked) -> Sequence[Said]:  # noqa: ARG002
        """One forward over all rows."""
        down, mid = self._module(
            asked.latents,
            asked.timesteps,
            encoder_hidden_states=asked.conditioning.tokens,
            controlnet_cond=torch.cat([part.hints[0].tensors[0] for part in asked.parts]),
            added_cond_kwargs=added(asked.conditioning),
            return_dict=False,
        )
        weighed = scaled((*down, mid), [part.scales(len(down) + 1) for part in asked.parts])
        return (Said(asked.rows, Residuals(down=weighed[:-1], mid=weighed[-1])),)


def added(conditioning: Conditioning) -> dict[str, torch.Tensor | None]:
    """What SDXL's networks are told beside the prompt."""
    return {"text_embeds": conditioning.pooled, "time_ids": conditioning.sizes}


def embedded(embed: Any, picture: Image.Image, family: Family, *, flip: bool = False) -> torch.Tensor:
    """What the convolutions ``embed`` make of ``picture``: [1, C, h, w], as large as its latents."""
    pixels = numbers(picture, embed.conv_in.in_channels).to(family.device, family.dtype)
    features: torch.Tensor = embed(pixels.flip(1) if flip else pixels)
    wanted = (picture.height // family.vae.scale, picture.width // family.vae.scale)
    if features.shape[-2:] != wanted:
        shown = "x".join(str(side) for side in reversed(features.shape[-2:]))
        msg = f"This control network makes {shown} features of a picture of {picture.width}x{picture.height}, not {wanted[::-1]}."
        raise Unsupported(msg, param="controls")
    return features


def check_encoder(name: str, config: Any, hint_channels: int, family: Family) -> None:
    """Hold a copy of a UNet's encoder, with ``config``, against the UNet of ``family``; raises `Unsupported`."""
    unet = family.network.config
    theirs = {
        "input channels": config.in_channels,
        "widths of the blocks": config.block_out_channels,
        "layers per block": config.layers_per_block,
        "width of the prompt's tokens": config.cross_attention_dim,
    }
    ours = {
        "input channels": family.vae.channels,
        "widths of the blocks": unet.block_out_channels,
        "layers per block": unet.layers_per_block,
        "width of the prompt's tokens": unet.cross_attention_dim,
    }
    if config.addition_embed_type is not None:
        theirs["width of pooled prompt and sizes"] = config.projection_class_embeddings_input_dim
        ours["width of pooled prompt and sizes"] = unet.projection_class_embeddings_input_dim
    check_widths(name, theirs, ours)
    odd = [key for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim") if config.get(key) is not None]
    if odd or hint_channels not in CHANNELS or config.addition_embed_type not in (None, "text_time"):
        what = ", ".join(odd) or f"{hint_channels} channels of control image, {config.addition_embed_type}"
        msg = f"Control network {name!r} wants what no model here can tell it: {what}."
        raise Unsupported(msg, param="controls")
