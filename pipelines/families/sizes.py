"""What a checkpoint will take up, told by the headers of its files: some kilobytes are read, whatever the size of the weights."""

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch

from pipelines.contract.catalog import ModelCard
from pipelines.families import sources
from pipelines.families.loading import precision

_MODULES = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def expected(card: ModelCard, device: torch.device) -> int:
    """Bytes of the weights in ``card``'s folder or file, in the precision it will have on ``device``; 0 for a hub's.

    It is a promise, not a measure: what a loader changes beyond the precision (a VAE kept in float32, quantisation) shows only in
    what was loaded. Raises `ModelLoadFailed` if the folder cannot be used.
    """
    item = precision(card.dtype, device).itemsize
    if card.source.startswith("file:"):
        return _elements(sources.locate(sources.parse(card.source), lambda _part, _done: None)) * item
    if not card.source.startswith(("dir:", "bundled:")):
        return 0
    folder = sources.folder(card.source)
    return sum(_elements(file) for name in _MODULES for file in _weight_files(folder / name)) * item


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
    """Numbers in a safetensors file: eight bytes of length, then the header as JSON (huggingface.co/docs/safetensors)."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
