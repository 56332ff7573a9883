"""ControlNet for SD 3 and 3.5: a copy of some of the transformer's blocks that adds to the image tokens after each."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling
from PIL import Image

from pipelines.adapters.control.fit import check_widths
from pipelines.adapters.control.network import Asked, Said
from pipelines.adapters.control.picture import numbers, unknown
from pipelines.adapters.control.scaling import scaled
from pipelines.contract.errors import InvalidRequest, TooLarge, Unsupported
from pipelines.families.family import Family
from pipelines.families.residuals import Residuals
from pipelines.families.weights import ModuleWeights


class TransformerControlNet:
    """A loaded ``SD3ControlNetModel``: with positions or without, with text or without, with a mask channel or without."""

    __slots__ = ("_masked", "_module", "_name", "bytes", "fused", "positive_only")

    def __init__(self, name: str, module: Any) -> None:
        """Take a module that is on its device, in evaluation mode."""
        self.bytes = ModuleWeights(module).bytes
        self.fused = self.positive_only = False
        self._name, self._module = name, module
        self._masked = module.config.extra_conditioning_channels == 1

    def check(self, family: Family) -> None:
        """As `ControlNetwork` says."""
        config, network = self._module.config, family.network.config
        theirs = {
            "input channels": config.in_channels,
            "patch size": config.patch_size,
            "width of the blocks": config.num_attention_heads * config.attention_head_dim,
            "width of the pooled prompt": config.pooled_projection_dim,
        }
        ours = {
            "input channels": family.vae.channels,
            "patch size": network.patch_size,
            "width of the blocks": network.num_attention_heads * network.attention_head_dim,
            "width of the pooled prompt": network.pooled_projection_dim,
        }
        if config.joint_attention_dim is not None:
            theirs["width of the prompt's tokens"] = config.joint_attention_dim
            ours["width of the prompt's tokens"] = network.joint_attention_dim
        check_widths(self._name, theirs, ours)
        if config.extra_conditioning_channels not in (0, 1):
            msg = f"Control network {self._name!r} wants {config.extra_conditioning_channels} channels that nothing here fills."
            raise Unsupported(msg, param="controls")

    def hint(self, picture: Image.Image, family: Family, mode: int) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """The latents of the picture, [1, C, h, w], and where it is known for a network with a mask channel.

        They are the mean of what the VAE says, so that equal requests give equal images; diffusers draws from it unseeded.
        Transparent parts of the picture are those that such a network is to fill in.
        """
        config = self._module.config
        most = config.pos_embed_max_size * config.patch_size * family.vae.scale
        if config.use_pos_embed and max(picture.size) > most:
            msg = f"Control network {self._name!r} knows sizes up to {most} pixels a side, not {picture.width}x{picture.height}."
            raise TooLarge(msg, param="size")
        pixels = numbers(picture, 3) * 2.0 - 1.0
        absent = unknown(picture)
        if self._masked:
            if not absent.any():
                msg = f"Control network {self._name!r} fills in what is transparent in its picture, and nothing is (send RGBA)."
                raise InvalidRequest(msg, param="controls")
            pixels = torch.where(absent.bool(), -1.0, pixels)
        mean = family.vae.moments(pixels)[0].mean
        # The networks that want no pooled prompt were trained without the VAE's shift too, but for the one that masks.
        plain = config.force_zeros_for_pooled_projection and not self._masked
        latents = (family.vae.factor * mean if plain else family.vae.scaled(mean)).to(family.device, family.dtype)
        if self._masked:
            known = 1.0 - F.interpolate(absent, size=latents.shape[-2:])
            latents = torch.cat([latents, known.to(latents)], dim=1)
        return (latents,)

    def speak(self, family: Family, asked: Asked) -> Sequence[Said]:
        """One forward over all rows; each residual stands for a run of the transformer's blocks, as in diffusers."""
        config, told = self._module.config, asked.conditioning
        pooled = told.pooled
        if pooled is not None and (config.force_zeros_for_pooled_projection or self._masked):
            pooled = torch.zeros_like(pooled)
        blocks = self._module(
            # Those without positions of their own (SD 3.5 large) see the image as the transformer does.
            hidden_states=asked.latents if config.use_pos_embed else family.network.pos_embed(asked.latents),
            timestep=asked.timesteps,
            encoder_hidden_states=None if config.joint_attention_dim is None else told.tokens,
            pooled_projections=pooled,
            controlnet_cond=torch.cat([part.hints[0].tensors[0] for part in asked.parts]),
            return_dict=False,
        )[0]
        weighed = scaled(blocks, [part.scales(len(blocks)) for part in asked.parts])
        count: int = family.network.config.num_layers
        run = count / len(weighed)
        return (Said(asked.rows, Residuals(blocks=tuple(weighed[int(index / run)] for index in range(count)))),)
