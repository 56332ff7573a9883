"""Tiny random SD3 checkpoints: the real architecture as our family, and diffusers' own pipelines over the same modules."""

import os
from typing import Any

import diffusers
import torch
from tiny import TOKENIZER
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from pipelines.families.sd3 import StableDiffusion3

LATENTS = 16
LAYERS = 4
T5_WIDTH = 80
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": LATENTS,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SCHEDULER = {"num_train_timesteps": 1000, "shift": 3.0}


def t5_tokenizer() -> T5Tokenizer:
    """A tokenizer of T5's kind with one piece per character."""
    characters = "abcdefghijklmnopqrstuvwxyz,.'"
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *((character, -3.0) for character in characters)], extra_ids=0)


class TinySD3:
    """One random checkpoint; ``medium`` is built like SD 3.5 medium (dual attention in the first blocks, normed queries)."""

    def __init__(
        self,
        *,
        medium: bool = False,
        t5: bool = True,
        in_channels: int = LATENTS,
        seed: int = 0,
        scheduler: dict[str, Any] | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.device = torch.device(os.environ.get("AQUATINT_TEST_DEVICE", "cpu"))
        self.tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
        self.text_encoder, self.text_encoder_2 = self._clip(32, 24), self._clip(40, 48)
        self.text_encoder_3 = self.tokenizer_3 = None
        if t5:
            self.tokenizer_3 = t5_tokenizer()
            self.text_encoder_3 = T5EncoderModel(
                T5Config(vocab_size=len(self.tokenizer_3), d_model=T5_WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=2)
            )
        self.transformer = diffusers.SD3Transformer2DModel(
            sample_size=16,
            in_channels=in_channels,
            out_channels=LATENTS,
            num_layers=LAYERS,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=24 + 48,
            pos_embed_max_size=24,
            dual_attention_layers=(0, 1) if medium else (),
            qk_norm="rms_norm" if medium else None,
        )
        # Random weights of the usual size hardly say anything: make what they say count, so that tests can tell.
        with torch.no_grad():
            self.transformer.proj_out.weight.mul_(4.0)
        self.vae = diffusers.AutoencoderKL(**VAE, block_out_channels=(8, 8, 8, 16), layers_per_block=1, norm_num_groups=4)
        for module in (self.transformer, self.vae, self.text_encoder, self.text_encoder_2, self.text_encoder_3):
            if module is not None:
                module.requires_grad_(False).eval().to(self.device)
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER | (scheduler or {}))
        self.family = StableDiffusion3(
            self.transformer,
            self.vae,
            (self.text_encoder, self.text_encoder_2),
            (self.tokenizer, self.tokenizer),
            self.scheduler.config,
            t5=(self.text_encoder_3, self.tokenizer_3) if t5 else None,
        )

    def _clip(self, hidden: int, projection: int) -> CLIPTextModelWithProjection:
        config = CLIPTextConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=hidden,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=4,
            max_position_embeddings=77,
            projection_dim=projection,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return CLIPTextModelWithProjection(config)

    def pipeline(self, kind: str) -> Any:
        """diffusers' own pipeline of ``kind`` (txt2img, img2img, inpaint)."""
        classes = {
            "txt2img": diffusers.StableDiffusion3Pipeline,
            "img2img": diffusers.StableDiffusion3Img2ImgPipeline,
            "inpaint": diffusers.StableDiffusion3InpaintPipeline,
        }
        pipeline = classes[kind](
            transformer=self.transformer,
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer,
            text_encoder_3=self.text_encoder_3,
            tokenizer_3=self.tokenizer_3,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
