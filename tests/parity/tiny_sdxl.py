"""Tiny random SDXL checkpoints: base, nine-channel inpainting and refiner, as our family and as diffusers' pipelines."""

import os
from typing import Any

import diffusers
import torch
from tiny import TOKENIZER
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.families.sdxl import StableDiffusionXL

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "interpolation_type": "linear",
    "use_karras_sigmas": False,
}

POOLED = 24
SIZE_WIDTH = 8


class TinyXL:
    """One random checkpoint; ``refiner`` leaves out the first text encoder and takes an aesthetic score."""

    def __init__(
        self,
        *,
        in_channels: int = 4,
        prediction_type: str = "epsilon",
        refiner: bool = False,
        seed: int = 0,
        vae: Any | None = None,
        zeros: bool | None = None,
        **scheduler: object,
    ) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(os.environ.get("AQUATINT_TEST_DEVICE", "cpu"))
        self.refiner = refiner
        self.tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
        self.text_encoder = None if refiner else CLIPTextModel(self._text(32, layers=4)).eval()
        self.text_encoder_2 = CLIPTextModelWithProjection(self._text(40, layers=5, projection_dim=POOLED)).eval()
        self.unet = diffusers.UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            sample_size=8,
            in_channels=in_channels,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=SIZE_WIDTH,
            projection_class_embeddings_input_dim=POOLED + (5 if refiner else 6) * SIZE_WIDTH,
            cross_attention_dim=40 if refiner else 72,
            norm_num_groups=8,
        ).eval()
        self.vae = (
            vae
            or diffusers.AutoencoderKL(
                block_out_channels=(8, 8, 8, 16),
                in_channels=3,
                out_channels=3,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=4,
                scaling_factor=0.13025,
            ).eval()
        )
        for module in (self.unet, self.vae, self.text_encoder, self.text_encoder_2):
            if module is not None:
                module.to(self.device)
        config = {**SCHEDULER, "prediction_type": prediction_type, **scheduler}
        self.scheduler = diffusers.EulerDiscreteScheduler.from_config(config)
        # The refiner's own index says false: its empty negative prompt is encoded.
        self.zeros = not refiner if zeros is None else zeros
        self.family = self._family()

    def pipeline(self, kind: str) -> Any:
        """diffusers' own pipeline of ``kind`` (txt2img, img2img, inpaint)."""
        classes = {
            "txt2img": diffusers.StableDiffusionXLPipeline,
            "img2img": diffusers.StableDiffusionXLImg2ImgPipeline,
            "inpaint": diffusers.StableDiffusionXLInpaintPipeline,
        }
        scored = {} if kind == "txt2img" else {"requires_aesthetics_score": self.refiner}
        pipeline = classes[kind](
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=None if self.refiner else self.tokenizer,
            tokenizer_2=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            force_zeros_for_empty_prompt=self.zeros,
            add_watermarker=False,
            **scored,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _family(self) -> StableDiffusionXL:
        return StableDiffusionXL(
            self.unet,
            self.vae,
            self.text_encoder,
            self.text_encoder_2,
            tokenizer=None if self.refiner else self.tokenizer,
            tokenizer_2=self.tokenizer,
            scheduler_config=self.scheduler.config,
            force_zeros_for_empty_prompt=self.zeros,
            requires_aesthetics_score=self.refiner,
        )

    def _text(self, width: int, layers: int, **more: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=width,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=layers,
            max_position_embeddings=77,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **more,
        )
