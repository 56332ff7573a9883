"""Which checkpoint a single file is, told from the names and shapes of its tensors."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families.weights_file import Contents

UNET = "model.diffusion_model."
"""Where LDM and SGM, and SD 3 after them, keep the denoising network."""

_PLAIN, _INPAINTING = 4, 9
_REFINER_WIDTH = 1280


class Variant(StrEnum):
    """Checkpoints whose configs ship with the project, by the name of their folder in ``configs``."""

    SD1 = "sd1"
    SD2 = "sd2"
    SDXL = "sdxl"
    SDXL_REFINER = "sdxl-refiner"
    SD3_MEDIUM = "sd3-medium"
    SD35_MEDIUM = "sd3.5-medium"
    SD35_LARGE = "sd3.5-large"


class Detected(msgspec.Struct, frozen=True):
    """What a file says of itself."""

    variant: Variant
    family: Family
    prefix: str
    """What the denoising network's names begin with."""
    inpainting: bool = False
    prediction_type: str | None = None
    """None where the file cannot tell: SD 2's epsilon and v-prediction networks have the same names and shapes."""
    marked: bool = False
    """Whether `prediction_type` comes from a tensor that is there for no other purpose, not from habit or a comment."""
    zero_snr: bool = False


def detect(contents: Contents, name: str) -> Detected:
    """What the file ``name`` with these ``contents`` is; raises `ModelLoadFailed` for anything Aquatint cannot run."""
    shapes = contents.shapes
    prefix = UNET if any(key.startswith(UNET) for key in shapes) else ""
    if f"{prefix}joint_blocks.0.context_block.attn.qkv.weight" in shapes:
        return _mmdit(shapes, prefix)
    if f"{prefix}input_blocks.0.0.weight" in shapes:
        return _unet(contents, prefix, name)
    msg = f"{name}: this is no Stable Diffusion checkpoint in the original layout ({_sample(shapes)})."
    if any(key.startswith(("down_blocks.", "transformer_blocks.", "unet.", "lora_")) for key in shapes):
        msg += " Its names are those of a diffusers part or of a LoRA: use 'dir:' with the folder it belongs to."
    raise ModelLoadFailed(msg)


def _mmdit(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Detected:
    """SD 3.5 normalises queries and keys; only its medium size has a second attention."""
    if f"{prefix}joint_blocks.0.x_block.attn.ln_q.weight" not in shapes:
        variant = Variant.SD3_MEDIUM
    elif f"{prefix}joint_blocks.0.x_block.attn2.qkv.weight" in shapes:
        variant = Variant.SD35_MEDIUM
    else:
        variant = Variant.SD35_LARGE
    return Detected(variant, Family.SD3, prefix, prediction_type="flow_prediction", marked=True)


def _unet(contents: Contents, prefix: str, name: str) -> Detected:
    """SD 2 and SDXL project with linear layers where SD 1 has convolutions; only SDXL embeds sizes (``label_emb``)."""
    shapes = contents.shapes
    if "edm_mean" in shapes:
        msg = f"{name}: checkpoints trained on the EDM schedule (Playground 2.5) are not supported."
        raise ModelLoadFailed(msg)
    channels = shapes[f"{prefix}input_blocks.0.0.weight"][1]
    if channels not in (_PLAIN, _INPAINTING):
        msg = f"{name}: a UNet with {channels} input channels is neither a plain nor an inpainting one."
        raise ModelLoadFailed(msg)
    if f"{prefix}label_emb.0.0.weight" in shapes:
        width = next(shape[-1] for key, shape in shapes.items() if key.startswith(prefix) and key.endswith("attn2.to_k.weight"))
        refiner = width == _REFINER_WIDTH or "conditioner.embedders.0.model.ln_final.weight" in shapes
        variant, family = (Variant.SDXL_REFINER if refiner else Variant.SDXL), Family.SDXL
    else:
        projection = next((s for k, s in shapes.items() if k.startswith(prefix) and k.endswith(".1.proj_in.weight")), ())
        variant, family = (Variant.SD2 if len(projection) == 2 else Variant.SD1), Family.SD  # noqa: PLR2004 - a matrix
    inpainting = channels == _INPAINTING
    prediction, marked = _prediction(contents, variant, inpainting=inpainting)
    return Detected(variant, family, prefix, inpainting, prediction, marked, zero_snr="ztsnr" in shapes)


def _prediction(contents: Contents, variant: Variant, *, inpainting: bool) -> tuple[str | None, bool]:
    """Marker tensors first (``v_pred``, as v-prediction fine-tunes carry), then the ModelSpec metadata, then habit."""
    if "v_pred" in contents.tensors:
        return "v_prediction", True
    said = contents.metadata.get("modelspec.prediction_type", "")
    if said in {"v", "epsilon"}:
        return {"v": "v_prediction", "epsilon": "epsilon"}[said], False
    if variant is Variant.SD2 and not inpainting:
        return None, False
    return "epsilon", False


def _sample(shapes: Mapping[str, object]) -> str:
    names = sorted(shapes)[:3]
    return f"it holds {', '.join(names)}, ..." if names else "it holds no tensors"
