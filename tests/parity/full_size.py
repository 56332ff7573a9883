"""Checkpoints of the published configurations with random weights, as our families and as diffusers' pipelines.

Everything computes in float32: processors without bfloat16 instructions would need half an hour for two steps. Weights that
do not fit 20 GiB in it (SD 3.5 large) are stored in bfloat16 and widened layer by layer.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.hooks import apply_layerwise_casting
from tiny import SCHEDULER as SD_SCHEDULER
from tiny import TOKENIZER, Tiny
from tiny_sd3 import SCHEDULER as FLOW_SCHEDULER
from tiny_sd3 import VAE as SD3_VAE
from tiny_sd3 import TinySD3
from tiny_sdxl import SCHEDULER as XL_SCHEDULER
from tiny_sdxl import TinyXL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.families.sd import StableDiffusion
from pipelines.families.sd3 import StableDiffusion3

CPU = torch.device("cpu")
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
CLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "hidden_act": "gelu",
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
SD = {
    "sd1.5": ({"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}, CLIP_L, "epsilon"),
    "sd2.1": (
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        CLIP_H,
        "v_prediction",
    ),
}
XL_UNET = {
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
TWO_BILLION = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
SD3 = {
    "sd3-medium": TWO_BILLION | {"pos_embed_max_size": 192},
    "sd3.5-medium": TWO_BILLION | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
    "sd3.5-large": {
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
}


class FullSD(Tiny):
    """SD 1.5 or 2.1."""

    def __init__(self, name: str) -> None:
        unet, text, prediction = SD[name]
        self.device, self.tokenizer = CPU, tokenizer()
        self.unet = filled(lambda: diffusers.UNet2DConditionModel(**unet))
        self.vae = filled(lambda: diffusers.AutoencoderKL(**VAE, scaling_factor=0.18215))
        self.text_encoder = filled(lambda: CLIPTextModel(clip(self.tokenizer, text)))
        # diffusers 0.42 looks for the text model one level further down than transformers 5 keeps it.
        self.text_encoder.__dict__.setdefault("text_model", self.text_encoder)
        self.scheduler = diffusers.PNDMScheduler.from_config({**SD_SCHEDULER, "prediction_type": prediction})
        self.family = StableDiffusion(self.unet, self.vae, self.text_encoder, self.tokenizer, self.scheduler.config)


class FullXL(TinyXL):
    """SDXL base: 13 GiB."""

    def __init__(self) -> None:
        self.device, self.tokenizer = CPU, tokenizer()
        self.refiner, self.zeros = False, True
        self.unet = filled(lambda: diffusers.UNet2DConditionModel(**XL_UNET))
        self.vae = filled(lambda: diffusers.AutoencoderKL(**VAE, scaling_factor=0.13025))
        self.text_encoder = filled(lambda: CLIPTextModel(clip(self.tokenizer, CLIP_L)))
        self.text_encoder_2 = filled(lambda: CLIPTextModelWithProjection(clip(self.tokenizer, CLIP_G)))
        self.scheduler = diffusers.EulerDiscreteScheduler.from_config(XL_SCHEDULER)
        self.family = self._family()


class FullSD3(TinySD3):
    """SD 3 or 3.5, without T5 (whose 4.8 billion parameters would not fit beside the large transformer's 8.1)."""

    def __init__(self, name: str) -> None:
        self.device, self.tokenizer = CPU, tokenizer()
        shape = {"sample_size": 128, "attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048}
        stored = torch.bfloat16 if name == "sd3.5-large" else torch.float32
        self.transformer = filled(lambda: diffusers.SD3Transformer2DModel(**(shape | SD3[name])), stored)
        if stored is not torch.float32:
            widened(self.transformer, stored, torch.nn.Embedding)
        self.vae = filled(lambda: diffusers.AutoencoderKL(**(VAE | SD3_VAE)))
        self.text_encoder = filled(lambda: CLIPTextModelWithProjection(clip(self.tokenizer, CLIP_L)))
        self.text_encoder_2 = filled(lambda: CLIPTextModelWithProjection(clip(self.tokenizer, CLIP_G)))
        if stored is not torch.float32:
            widened(self.text_encoder_2, stored)  # but for its embeddings: a text model is of the type of its first weights
        self.text_encoder_3 = self.tokenizer_3 = None
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW_SCHEDULER)
        self.family = StableDiffusion3(
            self.transformer,
            self.vae,
            (self.text_encoder, self.text_encoder_2),
            (self.tokenizer, self.tokenizer),
            self.scheduler.config,
        )


def widened(module: Any, stored: torch.dtype, *more: type) -> None:
    """Have ``module`` compute in float32, but keep what its linear, convolution and ``more`` layers weigh in ``stored``."""
    for part in module.modules():
        if not isinstance(part, (torch.nn.Linear, torch.nn.Conv2d, *more)):
            for own in part.parameters(recurse=False):
                own.data = own.data.float()
    # The function below the module's own method, which would leave out what it keeps in float32 anyway.
    apply_layerwise_casting(module, stored, torch.float32, skip_modules_pattern=())


def tokenizer() -> CLIPTokenizer:
    """The demo's: its ids are CLIP's first ones."""
    return CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)


def clip(tokens: CLIPTokenizer, shape: dict[str, Any]) -> CLIPTextConfig:
    """A CLIP text model of ``shape`` with the real vocabulary's width."""
    ends = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    return CLIPTextConfig(vocab_size=49408, **(ends | shape))


def filled(make: Callable[[], Any], dtype: torch.dtype = torch.float32) -> Any:
    """The module that ``make`` gives with random weights: built without storage and filled in place, so never there twice."""
    with torch.device("meta"):
        module = make()
    module = module.to(dtype).to_empty(device="cpu").eval().requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            bound = parameter[0].numel() ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
        elif name.endswith("pos_embed"):
            buffer.uniform_(-1.0, 1.0, generator=generator)
        else:
            msg = f"{name} would be left with whatever lay in memory"
            raise AssertionError(msg)
    return module
