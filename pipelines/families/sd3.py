"""Stable Diffusion 3 and 3.5: one transformer over image and text tokens, two CLIP text encoders and a T5 that may be left out.

Rectified flow and the MMDiT architecture: https://arxiv.org/abs/2403.03206.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from pipelines.contract.catalog import ModelFacts
from pipelines.contract.errors import InvalidRequest, ModelLoadFailed, TooLarge
from pipelines.contract.family import Family as Architecture
from pipelines.contract.request import ImageRequest
from pipelines.families.autoencoder import Autoencoder
from pipelines.families.clip import ClipText
from pipelines.families.conditioning import Conditioning, by_length
from pipelines.families.facts import facts
from pipelines.families.family import Prompt
from pipelines.families.parts import Parts
from pipelines.families.residuals import NONE, Residuals

T5_TOKENS = 256
"""Text past so many T5 tokens is cut, shorter text is padded: the default of diffusers' pipelines."""


class StableDiffusion3:
    """A loaded SD 3 or 3.5 checkpoint."""

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        text_encoders: tuple[Any, Any],
        tokenizers: tuple[Any, Any],
        scheduler_config: Mapping[str, Any],
        *,
        t5: tuple[Any, Any] | None = None,
        load_seconds: float = 0.0,
    ) -> None:
        """Take modules that are already on their device, in evaluation mode; ``t5`` is the encoder and its tokenizer."""
        inpainting = transformer.config.in_channels == 2 * vae.config.latent_channels + 1
        if not inpainting and transformer.config.in_channels != vae.config.latent_channels:
            msg = f"A transformer with {transformer.config.in_channels} input channels is neither a plain nor an inpainting one."
            raise ModelLoadFailed(msg)
        self.network = transformer
        self.text_encoders: Mapping[str, Any] = {"text_encoder": text_encoders[0], "text_encoder_2": text_encoders[1]}
        if t5 is not None:
            self.text_encoders = {**self.text_encoders, "text_encoder_3": t5[0]}
        self._clips = tuple(
            # One chunk each: the network was trained on 77 tokens of CLIP, and T5 reads what is cut off.
            ClipText(tokenizer, encoder, penultimate=True, most_chunks=1)
            for tokenizer, encoder in zip(tokenizers, text_encoders, strict=True)
        )
        self._t5 = t5
        self.vae = Autoencoder(vae)
        self.device = transformer.device
        self.dtype = transformer.dtype
        # FlowMatch schedulers have no such option, since they can do nothing else; the solvers tell by it what they run.
        self.scheduler_config: Mapping[str, Any] = {**scheduler_config, "prediction_type": "flow_prediction"}
        self.max_clip_skip = min(clip.max_clip_skip for clip in self._clips)
        self.facts: ModelFacts = facts(
            Architecture.SD3,
            transformer,
            (vae, *text_encoders, *(() if t5 is None else t5[:1])),
            self.scheduler_config,
            latent_channels=self.vae.channels,
            inpainting=inpainting,
            max_clip_skip=self.max_clip_skip,
            patch=transformer.config.patch_size,
            load_seconds=load_seconds,
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[Conditioning]:
        """For each prompt tokens [1, 77 + 256, joint width], CLIP's before T5's, and both CLIPs' projections [1, P]."""
        clips = [clip.encode(prompts) for clip in self._clips]
        longer = self._t5_states(prompts)
        encoded = []
        for index in range(len(prompts)):
            both = [clip[index] for clip in clips]
            tokens = torch.cat([each.tokens for each in both], dim=-1)
            tokens = F.pad(tokens, (0, longer.shape[-1] - tokens.shape[-1])).to(self.dtype)
            pooled = torch.cat([each.pooled for each in both if each.pooled is not None], dim=-1)
            encoded.append(Conditioning(torch.cat([tokens, longer[index : index + 1]], dim=1), pooled=pooled.to(self.dtype)))
        return encoded

    def condition(self, encoded: Conditioning, request: ImageRequest, *, negative: bool) -> Conditioning:  # noqa: ARG002
        """SD 3 is told nothing but the prompt.

        Raises `InvalidRequest` for blocks to skip that the transformer does not have, `TooLarge` for a size beyond its positions.
        """
        config, skip = self.network.config, request.sampling.skip_layers
        if skip is not None and max(skip.layers, default=0) >= config.num_layers:
            msg = f"This model has blocks 0 to {config.num_layers - 1}; skip_layers names {max(skip.layers)}."
            raise InvalidRequest(msg, param="skip_layers")
        most = config.pos_embed_max_size * config.patch_size * self.vae.scale
        if max(request.width, request.height) > most:
            msg = f"This model makes images of at most {most} pixels a side, not {request.width}x{request.height}."
            raise TooLarge(msg, param="size")
        return encoded

    def forwards(self, conditioning: Conditioning) -> Sequence[tuple[Sequence[int], Conditioning]]:
        """One for each length of text: text and image attend to each other without a mask."""
        if conditioning.mask is None:
            return [(range(len(conditioning)), conditioning)]
        return list(by_length(conditioning))

    def evaluate(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        skip_layers: tuple[int, ...] = (),
        residuals: Residuals = NONE,
    ) -> torch.Tensor:
        """The transformer's prediction."""
        if conditioning.mask is None:
            return self._forward(latents, timesteps, conditioning, skip_layers, residuals)
        predictions = torch.empty_like(latents[:, : self.vae.channels])
        for rows, own in self.forwards(conditioning):
            predictions[rows] = self._forward(latents[rows], timesteps[rows], own, skip_layers, residuals.rows(rows))
        return predictions

    def _forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        skip_layers: tuple[int, ...],
        residuals: Residuals,
    ) -> torch.Tensor:
        prediction: torch.Tensor = self.network(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=conditioning.tokens,
            pooled_projections=conditioning.pooled,
            skip_layers=list(skip_layers) or None,
            block_controlnet_hidden_states=None if residuals.blocks is None else list(residuals.blocks),
            return_dict=False,
        )[0]
        return prediction

    def _t5_states(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """T5's states [n, 256, joint width]; zeros without a T5, as the network was trained to expect."""
        if self._t5 is None:
            shape = (len(prompts), T5_TOKENS, self.network.config.joint_attention_dim)
            return torch.zeros(shape, device=self.device, dtype=self.dtype)
        encoder, tokenizer = self._t5
        tokens = tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length",
            max_length=T5_TOKENS,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        # No attention mask: the network was trained on T5's view of the padding too.
        states: torch.Tensor = encoder(tokens.input_ids.to(encoder.device))[0]
        return states.to(self.device, self.dtype)


def load(parts: Parts, *, t5: bool = True) -> StableDiffusion3:
    """The checkpoint made of ``parts``; without its T5 if it has none or ``t5`` is False."""
    began = time.monotonic()
    names = ("", "_2")
    tokenizers = tuple(parts.tokenizer(f"tokenizer{name}", CLIPTokenizer) for name in names)
    encoders = tuple(parts.module(f"text_encoder{name}", CLIPTextModelWithProjection) for name in names)
    third = None
    if t5 and parts.has("text_encoder_3"):
        third = (parts.module("text_encoder_3", T5EncoderModel), parts.tokenizer("tokenizer_3", T5TokenizerFast))
    vae = parts.module("vae", AutoencoderKL)
    vae.to(memory_format=torch.channels_last)
    return StableDiffusion3(
        parts.module("transformer", SD3Transformer2DModel),
        vae,
        (encoders[0], encoders[1]),
        (tokenizers[0], tokenizers[1]),
        parts.scheduler_config(),
        t5=third,
        load_seconds=time.monotonic() - began,
    )
