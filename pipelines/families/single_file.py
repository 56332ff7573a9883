"""Parts of one safetensors file in the original layout, as model sites ship checkpoints; no network is used."""

import json
import logging
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open

from pipelines.contract.catalog import Schedule
from pipelines.contract.errors import ModelLoadFailed
from pipelines.families import original_layout
from pipelines.families.assembly import blank, fill
from pipelines.families.autoencoder import steady
from pipelines.families.clip_tokenizer import clip_tokenizer
from pipelines.families.detection import Detected, detect
from pipelines.families.progress import Progress
from pipelines.families.weights_file import inspect
from pipelines.sampling.overlay import overridden

_log = logging.getLogger(__name__)
_NETWORKS = ("unet", "transformer")


def shipped_configs(variant: str) -> Path:
    """The folder with the configs of ``variant`` that come with the project."""
    return Path(str(files("pipelines"))) / "families" / "configs" / variant


class SingleFileParts:
    """Parts of a checkpoint that is one file; what it does not say is in ``configs``, a diffusers folder without weights."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        *,
        configs: Path | None = None,
        prediction_type: str | None = None,
    ) -> None:
        """Read the header of ``path`` and detect what it is; weights are read when asked for.

        ``configs`` are those that ship with the project if not given; ``prediction_type`` is the card's word. Raises
        `ModelLoadFailed` if the file cannot be used.
        """
        self._path, self._device, self._dtype, self._progress = path, device, dtype, progress
        self._contents = inspect(path)
        self.detected: Detected = detect(self._contents, path.name)
        self.configs = configs or shipped_configs(self.detected.variant)
        self._prediction_type = prediction_type or self.detected.prediction_type

    def has(self, name: str) -> bool:
        """Whether a checkpoint of this kind has it; T5 (``text_encoder_3``) only if it is in the file and has a tokenizer.

        Of anything else `module` says what to do when the file lacks it: no family can do without.
        """
        if name != "text_encoder_3":
            return (self.configs / name).is_dir()
        if original_layout.place_of(name, self._contents.tensors) is None:
            return False
        if not (self.configs / "tokenizer_3").is_dir():
            _log.warning(
                "%s holds a T5 text encoder, but no tokenizer for it: it is left out. "
                "Name a folder that has both in the card's text_encoders: {text_encoder_3: ...} to use it.",
                self._path,
            )
            return False
        return True

    def module(self, name: str, kind: Any) -> Any:
        """Part ``name``, tensor by tensor from the mapped file to the device."""
        config = self.configs / name
        if name in _NETWORKS:
            prefix, place = self.detected.prefix, None
        else:
            place = original_layout.place_of(name, self._contents.tensors)
            if place is None:
                msg = f"{self._path} holds no {name}; name a source for it in the card ({_override(name)})."
                raise ModelLoadFailed(msg)
            prefix = place.prefix
        self._progress(name, 0.0)
        channels = {"in_channels": 9} if name == "unet" and self.detected.inpainting else {}
        module = blank(kind, config, **channels)
        tensors = self._tensors(prefix)
        if place is None:
            converted = original_layout.network(tensors, prefix, module.config)
        elif name == "vae":
            converted = original_layout.vae(tensors, place, module.config)
        else:
            converted = original_layout.text_encoder(tensors, place, module)
        dtype = steady(self._dtype, module.config) if name == "vae" else self._dtype
        what = f"{self._path.name}: {name} as in {self.detected.variant}"
        return fill(module, converted, what, device=self._device, dtype=dtype, done=lambda part: self._progress(name, part))

    def tokenizer(self, name: str, kind: Any) -> Any:
        """The tokenizer ``name``: the one among the configs, or CLIP's, which comes with the project."""
        config = self.configs / name
        if (config / "tokenizer.json").is_file() or (config / "vocab.json").is_file():
            return kind.from_pretrained(config, local_files_only=True)
        if not config.is_dir():
            msg = f"No {name} comes with single files: name a folder or repository that has one beside its text encoder."
            raise ModelLoadFailed(msg)
        return clip_tokenizer(kind, config / "tokenizer_config.json")

    def settings(self) -> Mapping[str, Any]:
        """``model_index.json`` among the configs."""
        read: Mapping[str, Any] = json.loads((self.configs / "model_index.json").read_text())
        return read

    def scheduler_config(self) -> Mapping[str, Any]:
        """The config of the checkpoint's kind, with the prediction type and zero terminal SNR that were found or told.

        Raises `ModelLoadFailed` where neither the file nor the card says what the network predicts.
        """
        if self._prediction_type is None:
            msg = (
                f"{self._path} is an SD 2 checkpoint, and its tensors do not tell whether it predicts noise or velocity. Set "
                "schedule: {prediction_type: v_prediction} in the card (2.0 and 2.1 at 768 px), or epsilon (the base models)."
            )
            raise ModelLoadFailed(msg)
        read = json.loads((self.configs / "scheduler" / "scheduler_config.json").read_text())
        if self._prediction_type != "flow_prediction":
            read["prediction_type"] = self._prediction_type
        kind = getattr(diffusers, read["_class_name"])
        config: Mapping[str, Any] = kind.from_config(read).config
        if self.detected.zero_snr:
            # Added last: not every scheduler class knows it, and the one that samples may be another. The last timestep is
            # where such a checkpoint differs, and only trailing spacing visits it (arXiv:2305.08891).
            return overridden(config, Schedule(zero_snr=True, timestep_spacing="trailing"))
        return config

    def _tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """The part's tensors, as views of the mapped file."""
        with safe_open(self._path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in self._contents.tensors if name.startswith(prefix)}


def _override(name: str) -> str:
    return "vae: ..." if name == "vae" else f"text_encoders: {{{name}: ...}}"
