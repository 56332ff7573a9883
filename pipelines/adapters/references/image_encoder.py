"""The CLIP image encoder that an IP-Adapter looks through."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.adapters.references.layout import Layout, Variant
from pipelines.contract.adapters import ReferenceCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.picture import Picture
from pipelines.families import hub, sources
from pipelines.families.family import Family
from pipelines.families.parts import FolderParts
from pipelines.families.pictures import to_image
from pipelines.families.progress import Progress

_FOLDER = "image_encoder"
"""Where an ``hf:`` repository may have it, if not at its root."""

_KINDS = ("clip", "clip_vision_model")
"""How configs call a whole CLIP, and its image half."""

_WIDTHS = {
    Variant.PLAIN: {768: "CLIP ViT-L/14", 1024: "CLIP ViT-H/14", 1280: "CLIP ViT-bigG/14"},
    Variant.PLUS: {1024: "CLIP ViT-L/14", 1280: "CLIP ViT-H/14", 1664: "CLIP ViT-bigG/14"},
}
"""Encoders that IP-Adapters are made for, by the width of their embeddings and of their states."""


class ImageEncoder:
    """A loaded encoder; adapters that name the same one share it."""

    __slots__ = ("_module", "_processor", "bytes", "dtype", "source")

    def __init__(self, module: Any, source: str) -> None:
        """Take a module that is on its device; ``source`` is how cards call it."""
        size = module.config.image_size
        # As diffusers makes one for a pipeline that has none: pictures are scaled by their shorter side and cropped.
        self._processor = CLIPImageProcessor(size=size, crop_size=size)
        self._module, self.source, self.dtype = module, source, module.dtype
        self.bytes = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))

    def pixels(self, picture: Picture) -> torch.Tensor:
        """``picture`` as the encoder wants it, [1, 3, S, S]."""
        pixels: torch.Tensor = self._processor(to_image(picture).convert("RGB"), return_tensors="pt").pixel_values
        return pixels.to(self._module.device, self.dtype)

    def grey(self) -> torch.Tensor:
        """The pixels of no picture: zeros, which stand for the mean colour."""
        size = self._module.config.image_size
        return torch.zeros(1, 3, size, size, device=self._module.device, dtype=self.dtype)

    def nothing(self) -> torch.Tensor:
        """The embedding of no picture: zeros, [1, P]."""
        return torch.zeros(1, self._module.config.projection_dim, device=self._module.device, dtype=self.dtype)

    def embedding(self, pixels: torch.Tensor) -> torch.Tensor:
        """A picture as one vector, [1, P]."""
        vector: torch.Tensor = self._module(pixels).image_embeds
        return vector

    def states(self, pixels: torch.Tensor) -> torch.Tensor:
        """What is seen in each patch and in the whole, before the last layer: [1, 1 + patches, W]."""
        states: torch.Tensor = self._module(pixels, output_hidden_states=True).hidden_states[-2]
        return states


def open_encoder(card: ReferenceCard, layout: Layout, family: Family, progress: Progress) -> ImageEncoder:
    """The image encoder of ``card``, whose file is laid out as ``layout`` says, in the precision of ``family``.

    Its source is ``dir:PATH``, ``hf:OWNER/NAME`` or ``hf:OWNER/NAME/FOLDER``. Raises `ModelLoadFailed` where there is none, and
    for one that this adapter was not made for.
    """
    name, source = card.name, card.image_encoder
    wanted = _wanted(layout)
    if source is None:
        msg = f"The IP-Adapter {name!r} needs {wanted}: name its folder as image_encoder ('dir:PATH' or 'hf:OWNER/NAME')."
        raise ModelLoadFailed(msg, param="references")
    folder = folder_of(source, progress)
    sources.check_weights(folder)
    width = _width(folder, layout.variant)
    if width != layout.image_width:
        msg = f"The IP-Adapter {name!r} needs {wanted}; the one in {folder} gives {width}."
        raise ModelLoadFailed(msg, param="references")
    parts = FolderParts(folder.parent, family.device, family.dtype, lambda _part, done: progress(_FOLDER, done))
    return ImageEncoder(parts.module(folder.name, CLIPVisionModelWithProjection), source)


def _wanted(layout: Layout) -> str:
    plain = layout.variant is Variant.PLAIN
    known = _WIDTHS[Variant.PLAIN if plain else Variant.PLUS].get(layout.image_width)
    what = "embeddings" if plain else "states"
    return f"a CLIP image encoder with {what} of {layout.image_width}" + ("" if known is None else f" ({known})")


def _width(folder: Path, variant: Variant) -> int:
    """Of what the encoder in ``folder`` gives; a whole CLIP's config has its image half inside."""
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        msg = f"{folder / 'config.json'} cannot be read: {error}"
        raise ModelLoadFailed(msg, param="references") from error
    if kind not in _KINDS:
        msg = f"{folder} holds a model of type {kind!r}: it must be a CLIP image encoder."
        raise ModelLoadFailed(msg, param="references")
    config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    return int(config.projection_dim if variant is Variant.PLAIN else config.hidden_size)


def folder_of(source: str, progress: Progress) -> Path:
    """The encoder's folder; of a repository that names no other, ``image_encoder`` or the root."""
    parsed = sources.parse(source)
    if parsed.scheme == "dir":
        return sources.locate(parsed, progress)
    if parsed.scheme != "hf":
        msg = f"image_encoder {source!r} is no folder: write 'dir:PATH' or 'hf:OWNER/NAME'."
        raise ModelLoadFailed(msg, param="references")
    owner, _, rest = parsed.rest.partition("/")
    repo, _, inner = rest.partition("/")
    inner = inner or _FOLDER
    path = hub.snapshot(f"{owner}/{repo}", parsed.revision, progress, only=inner)
    return path / inner if (path / inner).is_dir() else path
