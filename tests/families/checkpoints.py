"""Tiny random checkpoints of every family: a diffusers folder, and the same weights as one file in the original layout."""

import json
from pathlib import Path

import diffusers
import original
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from pipelines.contract.family import Family

_X, _D, _U, _XU = "CrossAttnDownBlock2D", "DownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_FLOW = {"shift": 3.0}

CLASSES = {
    "sd1": ("StableDiffusionPipeline", Family.SD),
    "sd1-inpaint": ("StableDiffusionInpaintPipeline", Family.SD),
    "sd2": ("StableDiffusionPipeline", Family.SD),
    "sdxl": ("StableDiffusionXLPipeline", Family.SDXL),
    "sdxl-refiner": ("StableDiffusionXLImg2ImgPipeline", Family.SDXL),
    "sd3-medium": ("StableDiffusion3Pipeline", Family.SD3),
    "sd3.5-medium": ("StableDiffusion3Pipeline", Family.SD3),
    "sd3.5-large": ("StableDiffusion3Pipeline", Family.SD3),
}
KINDS = {
    "unet": diffusers.UNet2DConditionModel,
    "transformer": diffusers.SD3Transformer2DModel,
    "vae": diffusers.AutoencoderKL,
    "text_encoder_3": T5EncoderModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def kind(checkpoint: str, part: str) -> type:
    """The class that a family asks for."""
    if part == "text_encoder":
        return CLIPTextModelWithProjection if checkpoint.startswith("sd3") else CLIPTextModel
    return KINDS[part]


def _unet(**changes: object) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        **{
            "block_out_channels": (8, 16, 16),
            "layers_per_block": 2,
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "down_block_types": (_X, _X, _D),
            "up_block_types": (_U, _XU, _XU),
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            **changes,
        }
    )


def _vae(**changes: object) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (4, 8, 8),
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "latent_channels": 4,
            "layers_per_block": 2,
            "norm_num_groups": 4,
            **changes,
        }
    )


def _clip(kind: type, *, layers: int = 2, width: int = 16) -> torch.nn.Module:
    return kind(
        CLIPTextConfig(
            vocab_size=99,
            hidden_size=width,
            intermediate_size=24,
            num_attention_heads=2,
            num_hidden_layers=layers,
            projection_dim=width,
        )
    )


def _mmdit(**changes: object) -> diffusers.SD3Transformer2DModel:
    return diffusers.SD3Transformer2DModel(
        **{
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 32,
            "out_channels": 4,
            "pos_embed_max_size": 8,
            **changes,
        }
    )


def modules(checkpoint: str) -> dict[str, torch.nn.Module]:
    """The random parts of ``checkpoint``, by diffusers' names; norms too, so that none can be taken for another."""
    torch.manual_seed(len(checkpoint))
    parts = _parts(checkpoint)
    with torch.no_grad():
        for parameter in (p for part in parts.values() for p in part.parameters()):
            parameter.normal_()
    return parts


def _parts(checkpoint: str) -> dict[str, torch.nn.Module]:
    if checkpoint.startswith("sd3"):
        more = {"sd3-medium": {}, "sd3.5-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}}
        t5 = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
        return {
            "transformer": _mmdit(**more.get(checkpoint, {"qk_norm": "rms_norm"})),
            "vae": _vae(use_quant_conv=False, use_post_quant_conv=False),
            "text_encoder": _clip(CLIPTextModelWithProjection),
            "text_encoder_2": _clip(CLIPTextModelWithProjection, width=20),
            "text_encoder_3": T5EncoderModel(t5),
        }
    if checkpoint.startswith("sdxl"):
        extra = {"use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        extra |= {"projection_class_embeddings_input_dim": 60, "transformer_layers_per_block": (1, 2, 2)}
        parts = {"unet": _unet(**extra, down_block_types=(_D, _X, _X), up_block_types=(_XU, _XU, _U)), "vae": _vae()}
        parts["text_encoder_2"] = _clip(CLIPTextModelWithProjection, width=20)
        return parts if checkpoint == "sdxl-refiner" else {**parts, "text_encoder": _clip(CLIPTextModel)}
    unet = _unet(use_linear_projection=checkpoint == "sd2", in_channels=9 if "inpaint" in checkpoint else 4)
    return {"unet": unet, "vae": _vae(), "text_encoder": _clip(CLIPTextModel)}


def original_state(checkpoint: str, parts: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The weights of ``parts`` as the one file of its kind would hold them."""
    states = {name: module.state_dict() for name, module in parts.items()}
    out = original.vae(states["vae"], 3)
    if "transformer" in states:
        out |= original.mmdit(states["transformer"])
        out |= original.clip(states["text_encoder"], "text_encoders.clip_l.transformer.")
        out |= original.clip(states["text_encoder_2"], "text_encoders.clip_g.transformer.")
        t5 = {name: tensor for name, tensor in states["text_encoder_3"].items() if name != "encoder.embed_tokens.weight"}
        return out | {f"text_encoders.t5xxl.transformer.{name}": tensor.clone() for name, tensor in t5.items()}
    out |= original.unet(states["unet"], 2)
    match checkpoint:
        case "sd2":
            out |= original.open_clip(states["text_encoder"], "cond_stage_model.model.")
            # The original has one layer more than diffusers keeps: SD 2 reads the one before the last.
            extra = {name: t.clone() for name, t in out.items() if "cond_stage_model.model.transformer.resblocks.1." in name}
            out |= {name.replace("resblocks.1.", "resblocks.2."): tensor for name, tensor in extra.items()}
            out |= {
                "cond_stage_model.model.text_projection": torch.zeros(16, 16),
                "cond_stage_model.model.logit_scale": torch.ones(()),
            }
        case "sdxl":
            out |= original.clip(states["text_encoder"], "conditioner.embedders.0.transformer.")
            out |= original.open_clip(states["text_encoder_2"], "conditioner.embedders.1.model.")
        case "sdxl-refiner":
            out |= original.open_clip(states["text_encoder_2"], "conditioner.embedders.0.model.")
        case _:
            out |= original.clip(states["text_encoder"], "cond_stage_model.transformer.")
            # What every SD 1 file carries beside the weights.
            out["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
            out["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    return out


def write(checkpoint: str, where: Path, **metadata: str) -> tuple[Path, Path]:
    """The folder and the file of ``checkpoint`` below ``where``."""
    parts = modules(checkpoint)
    folder, file = where / "folder", where / f"{checkpoint}.safetensors"
    scheduler = (
        diffusers.FlowMatchEulerDiscreteScheduler(**_FLOW) if "transformer" in parts else diffusers.PNDMScheduler(**_BETAS)
    )
    index = {"_class_name": CLASSES[checkpoint][0], "scheduler": ["diffusers", type(scheduler).__name__]}
    for name, module in parts.items():
        module.save_pretrained(folder / name, safe_serialization=True)
        index[name] = [type(module).__module__.split(".")[0], type(module).__name__]
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index))
    state = {name: tensor.contiguous() for name, tensor in original_state(checkpoint, parts).items()}
    save_file(state, file, metadata=metadata or None)
    return folder, file
