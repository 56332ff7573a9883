"""Stable Diffusion 1.x and 2.x: one UNet, one CLIP text encoder, one VAE; four latent channels, or nine for inpainting."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.contract.catalog import ModelFacts
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family as Architecture
from pipelines.contract.request import ImageRequest
from pipelines.families import guidance
from pipelines.families.autoencoder import Autoencoder
from pipelines.families.clip import ClipText
from pipelines.families.conditioning import Conditioning
from pipelines.families.facts import facts
from pipelines.families.family import Prompt
from pipelines.families.parts import Parts
from pipelines.families.residuals import NONE, Residuals

_INPAINT_CHANNELS = 9
"""Latents, mask and the latents of the masked picture: 4 + 1 + 4."""


class StableDiffusion:
    """A loaded SD 1.x or 2.x checkpoint."""

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler_config: Mapping[str, Any],
        *,
        load_seconds: float = 0.0,
    ) -> None:
        """Take modules that are already on their device, in evaluation mode."""
        if unet.config.in_channels not in (vae.config.latent_channels, _INPAINT_CHANNELS):
            msg = f"A UNet with {unet.config.in_channels} input channels is neither a plain nor an inpainting one."
            raise ModelLoadFailed(msg)
        self.network = unet
        self.text_encoders: Mapping[str, Any] = {"text_encoder": text_encoder}
        self._guidance_width = guidance.width(unet)
        self._text = ClipText(tokenizer, text_encoder)
        self.vae = Autoencoder(vae)
        self.device = unet.device
        self.dtype = unet.dtype
        self.scheduler_config = scheduler_config
        self.max_clip_skip = self._text.max_clip_skip
        self.facts: ModelFacts = facts(
            Architecture.SD,
            unet,
            (vae, text_encoder),
            scheduler_config,
            latent_channels=self.vae.channels,
            inpainting=unet.config.in_channels == _INPAINT_CHANNELS,
            embedded_guidance=self._guidance_width is not None,
            max_clip_skip=self.max_clip_skip,
            load_seconds=load_seconds,
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[Conditioning]:
        """Token embeddings [1, 77, width] for each prompt."""
        return [Conditioning(encoded.tokens) for encoded in self._text.encode(prompts)]

    def condition(self, encoded: Conditioning, request: ImageRequest, *, negative: bool) -> Conditioning:  # noqa: ARG002
        """SD 1 and 2 are told nothing but the prompt; distilled ones the guidance scale too."""
        if self._guidance_width is None:
            return encoded
        scale = guidance.embedding(request.sampling.guidance_scale, self._guidance_width, self.device, self.dtype)
        return msgspec.structs.replace(encoded, guidance=scale)

    def forwards(self, conditioning: Conditioning) -> Sequence[tuple[Sequence[int], Conditioning]]:
        """One: a mask tells the UNet how long each row's prompt is."""
        return [(range(len(conditioning)), conditioning)]

    def evaluate(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        skip_layers: tuple[int, ...] = (),  # noqa: ARG002 - transformers only
        residuals: Residuals = NONE,
    ) -> torch.Tensor:
        """The UNet's prediction; a timestep per row is what diffusers' UNet takes anyway after expanding its scalar."""
        prediction: torch.Tensor = self.network(
            latents,
            timesteps,
            encoder_hidden_states=conditioning.tokens,
            timestep_cond=conditioning.guidance,
            encoder_attention_mask=conditioning.mask,
            down_block_additional_residuals=residuals.down,
            mid_block_additional_residual=residuals.mid,
            down_intrablock_additional_residuals=None if residuals.intra is None else list(residuals.intra),
            return_dict=False,
        )[0]
        return prediction


def load(parts: Parts) -> StableDiffusion:
    """The checkpoint made of ``parts``."""
    began = time.monotonic()
    tokenizer = parts.tokenizer("tokenizer", CLIPTokenizer)
    text_encoder = parts.module("text_encoder", CLIPTextModel)
    vae = parts.module("vae", AutoencoderKL)
    unet = parts.module("unet", UNet2DConditionModel)
    # Convolutions want it on tensor cores, and on a CPU too: the demo's UNet takes 0.90-0.97 of the time from four rows up.
    unet.to(memory_format=torch.channels_last)
    vae.to(memory_format=torch.channels_last)
    config = parts.scheduler_config()
    return StableDiffusion(unet, vae, text_encoder, tokenizer, config, load_seconds=time.monotonic() - began)
