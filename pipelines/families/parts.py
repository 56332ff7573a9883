"""Where a family's parts come from: modules on their device, tokenizers and configs, by diffusers' names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch

from pipelines.families.construction import building
from pipelines.families.family import Progress


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


class FolderParts:
    """Parts of a diffusers folder; only safetensors is read and no network is used."""

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype, progress: Progress) -> None:
        """Load from ``path`` when asked."""
        self._path, self._device, self._dtype, self._progress = path, device, dtype, progress

    def has(self, name: str) -> bool:
        """Whether the folder has it and model_index.json does not say null."""
        listed = self.settings().get(name, [None, None])
        return (self._path / name).is_dir() and listed != [None, None]

    def module(self, name: str, kind: Any) -> Any:
        """Part ``name``, read straight into its dtype."""
        self._progress(name, 0.0)
        with building(self._dtype):
            module = kind.from_pretrained(self._path / name, local_files_only=True, use_safetensors=True, dtype=self._dtype)
        return module.requires_grad_(requires_grad=False).eval().to(self._device)

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
