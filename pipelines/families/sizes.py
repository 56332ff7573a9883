"""What a checkpoint will take up, told by the headers of its files: some kilobytes are read, whatever the size of the weights."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch

from pipelines.contract.catalog import ModelCard
from pipelines.families import sources
from pipelines.families.loading import precision
from pipelines.families.weights_file import inspect

_MODULES = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_AVERAGES = "model_ema."
"""Second copies of the network that training leaves in single files; they are not loaded."""


def expected(card: ModelCard, device: torch.device) -> int:
    """Bytes of the weights in ``card``'s source, in the precision it will have on ``device``; 0 for a repository on a hub.

    It is a promise, not a measure: what a loader changes beyond the precision (a VAE kept in float32, quantisation, parts from
    elsewhere) shows only in what was loaded. Raises `ModelLoadFailed` if the source cannot be used.
    """
    source = sources.parse(card.source, card.revision)
    if source.scheme == "hf":
        return 0
    path = sources.locate(source, lambda _part, _fraction: None)
    item = precision(card.dtype, device).itemsize
    if path.is_file():
        shapes = inspect(path).shapes
        return sum(prod(shape) for name, shape in shapes.items() if not name.startswith(_AVERAGES)) * item
    modules = [name for name in _MODULES if card.text_encoders.get(name, "") is not None]
    return sum(_elements(file) for name in modules for file in _weight_files(path / name)) * item


def _weight_files(folder: Path) -> Iterator[Path]:
    """The files that diffusers and transformers read, without the variants beside them."""
    for name in _FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            yield folder / name
            return
        if index.is_file():
            shards = json.loads(index.read_text())["weight_map"].values()
            yield from sorted({folder / shard for shard in shards})
            return


def _elements(file: Path) -> int:
    return sum(prod(shape) for shape in inspect(file).shapes.values())
