"""SDXL base at its real size with random weights, in bfloat16: about 7 GB, never held twice."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from tiny import TOKENIZER
from tiny_sdxl import SCHEDULER, TinyXL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
TEXT_2 = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


class FullXL(TinyXL):
    """The checkpoint of the configs above."""

    def __init__(
        self,
        unet: dict[str, Any] = UNET,
        vae: dict[str, Any] = VAE,
        texts: tuple[dict[str, Any], dict[str, Any]] = (TEXT, TEXT_2),
    ) -> None:
        self.device = torch.device("cpu")
        self.refiner, self.zeros = False, True
        self.tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
        ids = {
            "vocab_size": 49408,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        first, second = (CLIPTextConfig(**text, **ids) for text in texts)
        self.unet = filled(lambda: diffusers.UNet2DConditionModel(**unet))
        self.vae = filled(lambda: diffusers.AutoencoderKL(**vae))
        self.text_encoder = filled(lambda: CLIPTextModel(first))
        self.text_encoder_2 = filled(lambda: CLIPTextModelWithProjection(second))
        self.scheduler = diffusers.EulerDiscreteScheduler.from_config(SCHEDULER)
        self.family = self._family()


def filled(make: Callable[[], Any]) -> Any:
    """The module that ``make`` gives, in bfloat16: built without storage, then filled in place."""
    with torch.device("meta"):
        module = make()
    module = module.to(torch.bfloat16).to_empty(device="cpu").eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            bound = parameter[0].numel() ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for name, buffer in module.named_buffers():
        if not name.endswith("position_ids"):
            msg = f"{name} would be left with whatever lay in memory"
            raise AssertionError(msg)
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return module
