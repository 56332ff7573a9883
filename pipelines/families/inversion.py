"""Textual-inversion embeddings: vectors that a word stands for (https://arxiv.org/abs/2208.01618), from safetensors files."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipelines.contract.catalog import EmbeddingCard
from pipelines.contract.errors import ModelLoadFailed, Unsupported

MOST_VECTORS = 75
"""What fits between the first and the last token of a CLIP encoder."""

_PARTS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
"""How files for two text encoders (SDXL, SD3) call their halves."""


class Inversion:
    """One embedding; compared by identity, as its vectors are."""

    __slots__ = ("_vectors", "file", "name")

    def __init__(self, name: str, file: str, vectors: Mapping[int, torch.Tensor]) -> None:
        """``vectors`` [n, W] by their width W, the same n for each; ``name`` in lower case."""
        self.name, self.file, self._vectors = name, file, dict(vectors)

    def vectors(self, width: int) -> torch.Tensor:
        """[n, ``width``] on the CPU; raises `Unsupported` if the file has none so wide."""
        if width not in self._vectors:
            have = " and ".join(str(each) for each in self._vectors)
            msg = (
                f"The embedding {self.name!r} ({self.file}) has vectors of width {have}, this model's text encoder needs "
                f"{width}: it was made for other models. Leave the word out, or use one of those."
            )
            raise Unsupported(msg, param="prompt")
        return self._vectors[width]


def load(card: EmbeddingCard) -> Inversion:
    """The embedding of ``card``.

    A1111's layout (``emb_params``), diffusers' (one tensor, under whatever name), and the two halves of SDXL and SD3 are read.
    Raises `ModelLoadFailed` for a file that is none of these.
    """
    path = Path(card.source.removeprefix("file:")).expanduser()
    where = f"Embedding {card.name!r}: {path}"
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        msg = f"{where} does not exist."
        raise ModelLoadFailed(msg) from None
    except (SafetensorError, OSError) as error:
        msg = f"{where} cannot be read as safetensors ({error}); other formats are not loaded, convert it first."
        raise ModelLoadFailed(msg) from error
    parts = [part if part.ndim > 1 else part[None] for part in _parts(tensors, where)]
    counts = {len(part) for part in parts}
    if any(part.ndim != 2 for part in parts) or len(counts) != 1 or not 1 <= max(counts) <= MOST_VECTORS:  # noqa: PLR2004
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        msg = f"{where} must hold 1 to {MOST_VECTORS} vectors, as many for each text encoder; it has {shapes}."
        raise ModelLoadFailed(msg)
    return Inversion(card.name.lower(), str(path), {part.shape[1]: part.float() for part in parts})


def _parts(tensors: Mapping[str, torch.Tensor], where: str) -> list[torch.Tensor]:
    if "emb_params" in tensors:
        return [tensors["emb_params"]]
    for names in _PARTS:
        if any(name in tensors for name in names):
            return [tensors[name] for name in names if name in tensors]
    if len(tensors) != 1:
        msg = f"{where} is no embedding that Aquatint knows: it has {', '.join(sorted(tensors)[:8]) or 'no tensors'}."
        raise ModelLoadFailed(msg)
    return list(tensors.values())
