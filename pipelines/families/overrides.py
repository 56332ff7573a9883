"""Parts that a card takes from elsewhere than its checkpoint: another VAE, other text encoders, or none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families import original_layout
from pipelines.families.assembly import blank, fill
from pipelines.families.autoencoder import steady
from pipelines.families.parts import FolderParts, Parts
from pipelines.families.progress import Progress
from pipelines.families.sources import check_weights
from pipelines.families.weights_file import inspect

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")


class Replacement:
    """One part from a folder (a whole pipeline's, or the part's own) or from one safetensors file."""

    def __init__(
        self, name: str, path: Path, configs: Path, *, device: torch.device, dtype: torch.dtype, progress: Progress
    ) -> None:
        """Part ``name`` from ``path``; a file's architecture is described in the folder ``configs``.

        Raises `ModelLoadFailed` where ``path`` does not hold it.
        """
        self._name, self._path, self._configs = name, path, configs
        self._device, self._dtype, self._progress = device, dtype, progress
        if path.is_dir():
            inner = path / name
            self._folder = inner if inner.is_dir() else path
            if not (self._folder / "config.json").is_file():
                msg = f"{path} holds no {name}: there is neither {name}/config.json nor config.json."
                raise ModelLoadFailed(msg)
            check_weights(self._folder)

    def module(self, kind: Any) -> Any:
        """The part as a ``kind``, on its device."""

        def report(_part: str, fraction: float) -> None:
            self._progress(self._name, fraction)

        if self._path.is_dir():
            return FolderParts(self._folder.parent, self._device, self._dtype, report).module(self._folder.name, kind)
        contents = inspect(self._path)
        place = original_layout.place_of(self._name, contents.tensors)
        if place is None:
            msg = f"{self._path} holds no {self._name} in a layout that is known here."
            raise ModelLoadFailed(msg)
        report(self._name, 0.0)
        module = blank(kind, self._configs / self._name)
        with safe_open(self._path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in contents.tensors if name.startswith(place.prefix)}
        if self._name == "vae":
            converted = original_layout.vae(tensors, place, module.config)
        else:
            converted = original_layout.text_encoder(tensors, place, module)
        return fill(
            module,
            converted,
            f"{self._path.name}: {self._name}",
            device=self._device,
            dtype=steady(self._dtype, module.config) if self._name == "vae" else self._dtype,
            done=lambda fraction: report(self._name, fraction),
        )

    def tokenizer(self, name: str, kind: Any) -> Any | None:
        """The tokenizer that lies beside the part; None if there is none."""
        if not self._path.is_dir():
            return None
        # In a whole pipeline's folder "tokenizer" may belong to another encoder.
        places = (self._path / name,) if self._folder != self._path else (self._path / "tokenizer", self._path)
        for place in places:
            if any((place / file).is_file() for file in _TOKENIZER_FILES):
                return kind.from_pretrained(place, local_files_only=True)
        return None


class OverriddenParts:
    """The parts of ``base``, but for those that ``replaced`` names; None there leaves a part out."""

    def __init__(self, base: Parts, replaced: Mapping[str, Replacement | None]) -> None:
        self._base, self._replaced = base, replaced

    def has(self, name: str) -> bool:
        """Whether the replacement, or else the checkpoint, has it."""
        if name in self._replaced:
            return self._replaced[name] is not None
        return self._base.has(name)

    def module(self, name: str, kind: Any) -> Any:
        """Part ``name`` from its replacement, or else from the checkpoint."""
        replacement = self._replaced.get(name)
        return self._base.module(name, kind) if replacement is None else replacement.module(kind)

    def tokenizer(self, name: str, kind: Any) -> Any:
        """The tokenizer that comes with a replaced text encoder, or else the checkpoint's."""
        replacement = self._replaced.get(name.replace("tokenizer", "text_encoder"))
        own = None if replacement is None else replacement.tokenizer(name, kind)
        return self._base.tokenizer(name, kind) if own is None else own

    def settings(self) -> Mapping[str, Any]:
        """The checkpoint's."""
        return self._base.settings()

    def scheduler_config(self) -> Mapping[str, Any]:
        """The checkpoint's."""
        return self._base.scheduler_config()
