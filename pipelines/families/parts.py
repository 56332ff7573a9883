"""Where a family's parts come from: modules on their device, tokenizers and configs, by diffusers' names."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.autoencoder import steady
from pipelines.families.construction import building
from pipelines.families.progress import Progress


class Parts(Protocol):
    """One checkpoint's parts, whatever files they lie in."""

    def has(self, name: str) -> bool:
        """Whether there is such a part, ``text_encoder_3`` for example."""
        ...

    def module(self, name: str, kind: Any) -> Any:
        """Part ``name`` as a ``kind``, on the device, in its dtype, in evaluation mode, without gradients."""
        ...

    def tokenizer(self, name: str, kind: Any) -> Any:
        """The tokenizer ``name``."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """The pipeline's own config (``model_index.json``)."""
        ...

    def scheduler_config(self) -> Mapping[str, Any]:
        """The checkpoint's scheduler config, complete with its class's defaults."""
        ...


_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?P<half>\.fp16)?(?:-\d+-of-\d+)?\.safetensors")
"""A whole file or a shard, as diffusers and transformers name them."""

_UNUSED = frozenset({"safety_checker", "image_encoder"})
"""Parts that some folders have and no family asks for."""


class FolderParts:
    """Parts of a diffusers folder; only safetensors is read and no network is used.

    Weights are mapped into memory, not read: each tensor is converted and sent to the device by itself. On a CPU, and in the
    file's own precision, they stay mapped, so the file must not be written over while the model is loaded.
    """

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype, progress: Progress) -> None:
        """Load from ``path`` when asked."""
        self._path, self._device, self._dtype, self._progress = path, device, dtype, progress
        self._done = 0

    def has(self, name: str) -> bool:
        """Whether the folder has it and model_index.json does not say null."""
        listed = self.settings().get(name, [None, None])
        return (self._path / name).is_dir() and listed != [None, None]

    def module(self, name: str, kind: Any) -> Any:
        """Part ``name``, read straight into its dtype and onto its device; progress is told in bytes of all weights.

        Raises `ModelLoadFailed` when the files lack weights that a ``kind`` has.
        """
        folder = self._path / name
        whole = max(1, self._whole(name))
        self._progress(name, min(1.0, self._done / whole))
        dtype = _own(folder, self._dtype)
        with building(dtype):
            module, found = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype,
                variant="fp16" if _half(folder, dtype) else None,
                output_loading_info=True,
                # Without this, another device's weights would first be whole in RAM.
                **({} if self._device.type == "cpu" else {"device_map": {"": self._device}}),
            )
        missing = sorted(found["missing_keys"])
        if missing:
            msg = f"{folder} lacks {len(missing)} of the weights of a {kind.__name__}, such as {missing[0]!r}."
            raise ModelLoadFailed(msg)
        self._done += _size(folder, dtype)
        self._progress(name, min(1.0, self._done / whole))
        return module.requires_grad_(requires_grad=False).eval().to(self._device)

    def _whole(self, asked: str) -> int:
        """Bytes of all weights that will be read; a folder without a list of parts has only what is asked for."""
        listed = [*self.settings()] if (self._path / "model_index.json").is_file() else [asked]
        parts = [self._path / part for part in listed if part not in _UNUSED and (part == asked or self.has(part))]
        return sum(_size(part, _own(part, self._dtype)) for part in parts)

    def tokenizer(self, name: str, kind: Any) -> Any:
        """The tokenizer ``name``."""
        return kind.from_pretrained(self._path / name, local_files_only=True)

    def settings(self) -> Mapping[str, Any]:
        """``model_index.json``."""
        read: Mapping[str, Any] = json.loads((self._path / "model_index.json").read_text())
        return read

    def scheduler_config(self) -> Mapping[str, Any]:
        """The scheduler's config."""
        name = json.loads((self._path / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
        config: Mapping[str, Any] = (
            getattr(diffusers, name).from_pretrained(self._path / "scheduler", local_files_only=True).config
        )
        return config


def _own(folder: Path, dtype: torch.dtype) -> torch.dtype:
    """The type in which to load the part in ``folder`` of a checkpoint in ``dtype``."""
    config = folder / "config.json"
    return steady(dtype, json.loads(config.read_text())) if config.is_file() else dtype


def _half(folder: Path, dtype: torch.dtype) -> bool:
    """Whether to read the ``fp16`` files of ``folder``: for float16 if it has them, for other types if it has nothing else."""
    names = [found for entry in folder.iterdir() if (found := _WEIGHTS.fullmatch(entry.name))]
    half = [name for name in names if name["half"]]
    return bool(half) and (dtype is torch.float16 or len(half) == len(names))


def weight_files(folder: Path, dtype: torch.dtype) -> list[Path]:
    """The files from which the part in ``folder`` is read for ``dtype``, whole or in shards; empty if there are none."""
    if not folder.is_dir():
        return []
    half = _half(folder, dtype)
    found = [(entry, _WEIGHTS.fullmatch(entry.name)) for entry in sorted(folder.iterdir())]
    return [entry for entry, name in found if name and bool(name["half"]) == half]


def _size(folder: Path, dtype: torch.dtype) -> int:
    """Bytes of the weights that would be read from ``folder``; 0 if it holds none."""
    return sum(entry.stat().st_size for entry in weight_files(folder, dtype))
