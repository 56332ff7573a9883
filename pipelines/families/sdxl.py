"""Stable Diffusion XL, https://arxiv.org/abs/2307.01952: base, refiner, inpainting and few-step distillations.

A UNet that is told four things beside latents and timestep: the token states of both text encoders (the refiner: of the second
only), the second encoder's projection of the prompt, and the sizes that the picture's imagined original had.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.contract.catalog import ModelFacts
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family as Architecture
from pipelines.contract.request import ImageRequest, SizeConditioning
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


class StableDiffusionXL:
    """A loaded SDXL checkpoint, base or refiner."""

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any | None,
        text_encoder_2: Any,
        *,
        tokenizer: Any | None,
        tokenizer_2: Any,
        scheduler_config: Mapping[str, Any],
        force_zeros_for_empty_prompt: bool = True,
        requires_aesthetics_score: bool = False,
        load_seconds: float = 0.0,
    ) -> None:
        """Take modules that are already on their device, in evaluation mode.

        The refiner has no first text encoder and no first tokenizer. Raises `ModelLoadFailed` for parts that do not fit together.
        """
        if unet.config.in_channels not in (vae.config.latent_channels, _INPAINT_CHANNELS):
            msg = f"A UNet with {unet.config.in_channels} input channels is neither a plain nor an inpainting one."
            raise ModelLoadFailed(msg)
        _check_sizes(unet, text_encoder_2, requires_aesthetics_score=requires_aesthetics_score)
        self.network = unet
        both = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
        self.text_encoders: Mapping[str, Any] = {name: encoder for name, encoder in both.items() if encoder is not None}
        self._guidance_width = guidance.width(unet)
        self._second = ClipText(tokenizer_2, text_encoder_2, penultimate=True)
        self._texts: tuple[ClipText, ...] = (self._second,)
        if text_encoder is not None:
            self._texts = (ClipText(tokenizer, text_encoder, penultimate=True), self._second)
        self._zeros_for_empty = force_zeros_for_empty_prompt
        self._scored = requires_aesthetics_score
        self.vae = Autoencoder(vae)
        self.device = unet.device
        self.dtype = unet.dtype
        self.scheduler_config = scheduler_config
        self.max_clip_skip = min(text.max_clip_skip for text in self._texts)
        self.facts: ModelFacts = facts(
            Architecture.SDXL,
            unet,
            (vae, *(text.module for text in self._texts)),
            scheduler_config,
            latent_channels=self.vae.channels,
            inpainting=unet.config.in_channels == _INPAINT_CHANNELS,
            embedded_guidance=self._guidance_width is not None,
            max_clip_skip=self.max_clip_skip,
            refines_only=requires_aesthetics_score,
            load_seconds=load_seconds,
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[Conditioning]:
        """Token states [1, T, width of all encoders] and the projection [1, P] for each prompt.

        Where the checkpoint was trained so, an empty negative prompt is all zeros, not the states of an empty text.
        """
        read = [prompt for prompt in prompts if not self._is_nothing(prompt)]
        states = zip(*(text.encode(read) for text in self._texts), strict=True) if read else iter(())
        answers = []
        for prompt in prompts:
            if self._is_nothing(prompt):
                answers.append(self._nothing())
                continue
            encoded = next(states)
            tokens = torch.cat([each.tokens for each in encoded], dim=-1)
            answers.append(Conditioning(tokens, pooled=encoded[-1].pooled))
        return answers

    def condition(self, encoded: Conditioning, request: ImageRequest, *, negative: bool) -> Conditioning:
        """``encoded`` with the sizes of this request's imagined original; distilled networks are told the guidance scale too."""
        numbers = sizes_of(request, scored=self._scored, negative=negative)
        sizes = torch.tensor([numbers], dtype=encoded.tokens.dtype).to(self.device)
        if self._guidance_width is None:
            return msgspec.structs.replace(encoded, sizes=sizes)
        scale = guidance.embedding(request.sampling.guidance_scale, self._guidance_width, self.device, self.dtype)
        return msgspec.structs.replace(encoded, sizes=sizes, guidance=scale)

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
        """The UNet's prediction, each row with its own timestep, prompt and sizes."""
        prediction: torch.Tensor = self.network(
            latents,
            timesteps,
            encoder_hidden_states=conditioning.tokens,
            timestep_cond=conditioning.guidance,
            encoder_attention_mask=conditioning.mask,
            down_block_additional_residuals=residuals.down,
            mid_block_additional_residual=residuals.mid,
            down_intrablock_additional_residuals=None if residuals.intra is None else list(residuals.intra),
            added_cond_kwargs={"text_embeds": conditioning.pooled, "time_ids": conditioning.sizes},
            return_dict=False,
        )[0]
        return prediction

    def _is_nothing(self, prompt: Prompt) -> bool:
        return self._zeros_for_empty and prompt.negative and not prompt.text

    def _nothing(self) -> Conditioning:
        width = sum(text.module.config.hidden_size for text in self._texts)
        second = self._second.module.config
        zeros = torch.zeros(1, second.max_position_embeddings, width, dtype=self.dtype, device=self.device)
        return Conditioning(zeros, pooled=zeros.new_zeros(1, second.projection_dim))


def sizes_of(request: ImageRequest, *, scored: bool, negative: bool) -> tuple[float, ...]:
    """What the network is told of sizes, heights and tops before widths and lefts, as it was trained.

    Original size, crop and target size; a refiner (``scored``) gets an aesthetic score instead of the target size.
    """
    sizes = request.sizes or SizeConditioning()
    asked = (request.width, request.height)
    original, target = sizes.original or asked, sizes.target or asked
    common = (*reversed(original), *reversed(sizes.crop))
    if scored:
        return (*common, sizes.negative_aesthetic_score if negative else sizes.aesthetic_score)
    return (*common, *reversed(target))


def load(parts: Parts) -> StableDiffusionXL:
    """The checkpoint made of ``parts``; a refiner has no ``text_encoder``."""
    began = time.monotonic()
    settings = parts.settings()
    two = parts.has("text_encoder")
    tokenizer = parts.tokenizer("tokenizer", CLIPTokenizer) if two else None
    tokenizer_2 = parts.tokenizer("tokenizer_2", CLIPTokenizer)
    text_encoder = parts.module("text_encoder", CLIPTextModel) if two else None
    text_encoder_2 = parts.module("text_encoder_2", CLIPTextModelWithProjection)
    vae = parts.module("vae", AutoencoderKL)
    unet = parts.module("unet", UNet2DConditionModel)
    # Convolutions want it on tensor cores, and on a CPU too.
    unet.to(memory_format=torch.channels_last)
    vae.to(memory_format=torch.channels_last)
    return StableDiffusionXL(
        unet,
        vae,
        text_encoder,
        text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler_config=parts.scheduler_config(),
        force_zeros_for_empty_prompt=bool(settings.get("force_zeros_for_empty_prompt", True)),
        requires_aesthetics_score=bool(settings.get("requires_aesthetics_score", False)),
        load_seconds=time.monotonic() - began,
    )


def _check_sizes(unet: Any, text_encoder: Any, *, requires_aesthetics_score: bool) -> None:
    """Base and refiner differ in how many numbers they take; a wrong pipeline config would only fail at the first tick."""
    if unet.config.addition_embed_type != "text_time":
        msg = "This UNet takes no pooled prompt and no sizes: it is none of SDXL's."
        raise ModelLoadFailed(msg)
    wanted = unet.add_embedding.linear_1.in_features - text_encoder.config.projection_dim
    numbers = 5 if requires_aesthetics_score else 6
    if wanted != numbers * unet.config.addition_time_embed_dim:
        kind = "a refiner" if requires_aesthetics_score else "a base model"
        msg = (
            f"The UNet does not take the {numbers} size numbers of {kind} beside a projection of"
            f" {text_encoder.config.projection_dim}: the checkpoint's requires_aesthetics_score or its text_encoder_2 is wrong."
        )
        raise ModelLoadFailed(msg)
