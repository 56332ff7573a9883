"""From the names that model sites' single files use (LDM, SGM, SD 3) to diffusers' names, part by part."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)

from pipelines.families.detection import UNET

Tensors = dict[str, torch.Tensor]


class Place(msgspec.Struct, frozen=True):
    """Where a text encoder or VAE lies in a file."""

    prefix: str
    open_clip: bool = False
    """Whether it is laid out as open_clip does: fused projections, a transposed text projection."""


_PLACES: Mapping[str, tuple[Place, ...]] = {
    "vae": (Place("first_stage_model."), Place("vae.")),
    "text_encoder": (
        Place("cond_stage_model.transformer."),
        Place("cond_stage_model.model.", open_clip=True),
        Place("conditioner.embedders.0.transformer."),
        Place("text_encoders.clip_l.transformer."),
    ),
    "text_encoder_2": (
        Place("conditioner.embedders.1.model.", open_clip=True),
        Place("conditioner.embedders.0.model.", open_clip=True),
        Place("text_encoders.clip_g.transformer."),
    ),
    "text_encoder_3": (Place("text_encoders.t5xxl.transformer."),),
}
_BARE: Mapping[str, tuple[str, ...]] = {
    "vae": ("decoder.conv_in.weight",),
    "text_encoder": ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"),
    "text_encoder_2": ("text_model.embeddings.token_embedding.weight",),
    "text_encoder_3": ("shared.weight",),
}
"""Names that tell a file which holds nothing but that part."""

_CLIP_BODY = "text_model."
_PROJECTION = "text_projection.weight"


def place_of(part: str, names: Iterable[str]) -> Place | None:
    """Where ``part`` (``vae``, ``text_encoder``, ...) lies among the file's ``names``; None if it is not there."""
    names = set(names)
    for place in _PLACES[part]:
        if any(name.startswith(place.prefix) for name in names):
            return place
    return Place("") if any(name in names for name in _BARE[part]) else None


def network(tensors: Tensors, prefix: str, config: Mapping[str, Any]) -> Tensors:
    """The UNet's or MMDiT's ``tensors`` (names beginning with ``prefix``) by diffusers' names; ``tensors`` is emptied."""
    named = {UNET + name.removeprefix(prefix): tensors.pop(name) for name in list(tensors)}
    if config["_class_name"] == "SD3Transformer2DModel":
        converted: Tensors = convert_sd3_transformer_checkpoint_to_diffusers(named)
    else:
        converted = convert_ldm_unet_checkpoint(named, config)
    return converted


def vae(tensors: Tensors, place: Place, config: Mapping[str, Any]) -> Tensors:
    """The autoencoder's ``tensors`` by diffusers' names."""
    # Without the prefix: diffusers strips it wherever it stands, and takes "vae." for one too.
    converted: Tensors = convert_ldm_vae_checkpoint(_stripped(tensors, place.prefix), config)
    return converted


def text_encoder(tensors: Tensors, place: Place, blank: Any) -> Tensors:
    """A text encoder's ``tensors`` by the names of ``blank``, the module to fill."""
    if place.open_clip:
        converted: Tensors = convert_open_clip_checkpoint(blank, tensors, prefix=place.prefix)
    else:
        converted = _stripped(tensors, place.prefix)
    wanted = blank.state_dict()
    if not any(name.startswith(_CLIP_BODY) for name in wanted):
        # transformers 5 has CLIPTextModel without the level that the files (and CLIPTextModelWithProjection) keep.
        return {name.removeprefix(_CLIP_BODY): tensor for name, tensor in converted.items()}
    if not any(name.startswith(_CLIP_BODY) for name in converted):
        converted = {name if name == _PROJECTION else _CLIP_BODY + name: tensor for name, tensor in converted.items()}
    if _PROJECTION in wanted and _PROJECTION not in converted and not place.open_clip:
        # SD 3's CLIP-L comes without a projection, which stands for the identity.
        converted[_PROJECTION] = torch.eye(*wanted[_PROJECTION].shape)
    return converted


def _stripped(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
