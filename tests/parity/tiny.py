"""Tiny random checkpoints of real architectures, and diffusers' own pipelines over the same modules."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipelines.families.sd import StableDiffusion

TOKENIZER = "pipelines/bundled/demo/tokenizer"

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}


class Tiny:
    """One random checkpoint: as our family, and as diffusers' pipelines."""

    def __init__(
        self,
        *,
        in_channels: int = 4,
        prediction_type: str = "epsilon",
        seed: int = 0,
        guidance_width: int | None = None,
        scheduler: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """``guidance_width`` makes the UNet take the guidance scale as an embedding; ``scheduler`` adds to its config."""
        torch.manual_seed(seed)
        self.device = torch.device(os.environ.get("AQUATINT_TEST_DEVICE", "cpu"))
        self.unet = diffusers.UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            sample_size=8,
            in_channels=in_channels,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
            time_cond_proj_dim=guidance_width,
        ).eval()
        if guidance_width is not None:
            # diffusers starts this layer at zero, at which the scale would change nothing.
            torch.nn.init.normal_(self.unet.time_embedding.cond_proj.weight)
        self.vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 16),
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=4,
        ).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=32,
                intermediate_size=37,
                num_attention_heads=4,
                num_hidden_layers=3,
                max_position_embeddings=77,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        ).eval()
        for module in (self.unet, self.vae, self.text_encoder):
            module.to(self.device)
        # diffusers 0.42 looks for the text model one level further down than transformers 5 keeps it.
        self.text_encoder.__dict__.setdefault("text_model", self.text_encoder)
        self.scheduler = diffusers.PNDMScheduler.from_config({**SCHEDULER, "prediction_type": prediction_type, **scheduler})
        self.family = StableDiffusion(self.unet, self.vae, self.text_encoder, self.tokenizer, self.scheduler.config)

    def pipeline(self, kind: str) -> Any:
        """diffusers' own pipeline of ``kind`` (txt2img, img2img, inpaint)."""
        classes = {
            "txt2img": diffusers.StableDiffusionPipeline,
            "img2img": diffusers.StableDiffusionImg2ImgPipeline,
            "inpaint": diffusers.StableDiffusionInpaintPipeline,
        }
        pipeline = classes[kind](
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
