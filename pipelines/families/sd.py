"""Stable Diffusion 1.x and 2.x: one UNet, one CLIP text encoder, one VAE; four latent channels, or nine for inpainting."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.contract import catalog
from pipelines.contract.catalog import ModelFacts
from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.family import Moments, Progress, Prompt

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
        if unet.config.time_cond_proj_dim is not None:
            msg = "UNets that take the guidance scale as an embedding (distilled LCM checkpoints) are not supported."
            raise ModelLoadFailed(msg)
        self._unet, self._vae, self._text_encoder, self._tokenizer = unet, vae, text_encoder, tokenizer
        self.device = unet.device
        self.dtype = unet.dtype
        self.scheduler_config = scheduler_config
        self.latent_scale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_factor = float(vae.config.scaling_factor)
        self.max_clip_skip = text_encoder.config.num_hidden_layers - 1
        tensors = [p for module in (unet, vae, text_encoder) for p in module.parameters()]
        self.facts = ModelFacts(
            family=catalog.Family.SD,
            prediction_type=str(scheduler_config.get("prediction_type", "epsilon")),
            dtype=str(self.dtype).removeprefix("torch."),
            parameters=sum(p.numel() for p in tensors),
            bytes=sum(p.numel() * p.element_size() for p in tensors),
            latent_channels=vae.config.latent_channels,
            inpainting=unet.config.in_channels == _INPAINT_CHANNELS,
            load_seconds=load_seconds,
        )

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """One embedding [1, 77, width] for each prompt; text past the tokenizer's length is cut, as in diffusers."""
        tokens = self._tokenizer(
            [prompt.text for prompt in prompts],
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        masked = getattr(self._text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if masked else None
        output = self._text_encoder(
            tokens.input_ids.to(self.device),
            attention_mask=mask,
            output_hidden_states=any(p.clip_skip for p in prompts),
        )
        embeddings = []
        for index, prompt in enumerate(prompts):
            if prompt.clip_skip == 0:
                states = output.last_hidden_state[index : index + 1]
            else:
                # The last layer norm belongs to the embedding wherever it is tapped.
                states = output.hidden_states[-(prompt.clip_skip + 1)][index : index + 1]
                states = self._final_norm(states)
            embeddings.append(states.to(self.dtype))
        return embeddings

    def _final_norm(self, states: torch.Tensor) -> torch.Tensor:
        inner = getattr(self._text_encoder, "text_model", self._text_encoder)
        normed: torch.Tensor = inner.final_layer_norm(states)
        return normed

    def encode_pictures(self, pixels: torch.Tensor) -> list[Moments]:
        """Latent moments of pictures [n, 3, H, W] in -1..1."""
        posterior = self._vae.encode(pixels.to(self.device, self.dtype)).latent_dist
        return [Moments(posterior.mean[i : i + 1], posterior.std[i : i + 1]) for i in range(len(pixels))]

    def evaluate(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """The UNet's prediction; a timestep per row is what diffusers' UNet takes anyway after expanding its scalar."""
        prediction: torch.Tensor = self._unet(latents, timesteps, encoder_hidden_states=conditioning, return_dict=False)[0]
        return prediction

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [n, H, W, 3], uint8."""
        pixels = self._vae.decode(latents / self.latent_factor, return_dict=False)[0]
        scaled = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
        quantised: torch.Tensor = scaled.round().to(torch.uint8).permute(0, 2, 3, 1)
        return quantised


def load(path: Path, device: torch.device, dtype: torch.dtype, progress: Progress) -> StableDiffusion:
    """The checkpoint in a diffusers folder, read from safetensors straight into ``dtype``; no network is used."""
    began = time.monotonic()
    common = {"local_files_only": True, "use_safetensors": True}
    progress("tokenizer", 0.0)
    tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
    progress("text_encoder", 0.05)
    text_encoder = CLIPTextModel.from_pretrained(path / "text_encoder", dtype=dtype, **common)
    progress("vae", 0.2)
    vae = AutoencoderKL.from_pretrained(path / "vae", dtype=dtype, **common)
    progress("unet", 0.3)
    unet = UNet2DConditionModel.from_pretrained(path / "unet", dtype=dtype, **common)
    progress("device", 0.9)
    for module in (text_encoder, vae, unet):
        module.requires_grad_(requires_grad=False).eval().to(device)
    # Convolutions want it on tensor cores, and on a CPU too: the demo's UNet takes 0.90-0.97 of the time from four rows up.
    unet.to(memory_format=torch.channels_last)
    vae.to(memory_format=torch.channels_last)
    scheduler_class = json.loads((path / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    config = getattr(diffusers, scheduler_class).from_pretrained(path / "scheduler", local_files_only=True).config
    family = StableDiffusion(unet, vae, text_encoder, tokenizer, config, load_seconds=time.monotonic() - began)
    progress("ready", 1.0)
    return family
