"""The demo checkpoint's networks, untrained, and its scheduler."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from scripts.demo.painting import SIDE
from scripts.demo.recipe import SD_SCALING, SEED, TOKENS


def new_vae() -> AutoencoderKL:
    """Return an untrained autoencoder: factor 8, four latent channels, about a million weights."""
    torch.manual_seed(SEED)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # few channels to a group would normalise flat colours away
        sample_size=SIDE,
        scaling_factor=SD_SCALING,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def new_unet() -> UNet2DConditionModel:
    """Return an untrained denoiser: one plain and two cross-attention levels, eleven million weights."""
    torch.manual_seed(SEED + 1)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=8,
        norm_num_groups=4,  # as in the autoencoder: what a prompt says of the whole picture must survive normalisation
    )
    # Every residual branch begins as nothing: the first thousand steps go faster and steadier.
    for name, part in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    return unet


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder of two layers."""
    torch.manual_seed(SEED + 2)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> PNDMScheduler:
    """Return the scheduler SD 1 ships with, for v-prediction; every other one is made from its config."""
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
        timestep_spacing="leading",
    )
    # PNDM does not know the option; DDIM, made from this config, would clip latents as if they were pixels.
    scheduler.register_to_config(clip_sample=False)
    return scheduler
