"""From a card to a control network on the device: a diffusers folder, or one safetensors file in any layout known here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open

from pipelines.adapters.control.blueprint import blueprint
from pipelines.adapters.control.controlnet import ControlNet
from pipelines.adapters.control.layout import Layout, check_layout, layout
from pipelines.adapters.control.network import ControlNetwork
from pipelines.adapters.control.original import renamed
from pipelines.adapters.control.t2i_adapter import T2IAdapterNetwork
from pipelines.adapters.control.transformer import TransformerControlNet
from pipelines.adapters.control.union import UnionControlNet
from pipelines.contract.adapters import ControlCard
from pipelines.contract.control_rules import check_family
from pipelines.contract.errors import AquatintError, ModelLoadFailed
from pipelines.families import sources
from pipelines.families.assembly import fill, unfilled
from pipelines.families.family import Family
from pipelines.families.parts import weight_files
from pipelines.families.progress import Progress
from pipelines.families.sources import Source
from pipelines.families.weights_file import inspect

_BUNDLED = "controlnets"
_PARTS = ("controlnet", "adapter")
"""Folders within a pipeline's in which diffusers keeps them."""

_KINDS: Mapping[Layout, tuple[Any, Any]] = {
    Layout.CONTROLNET: (diffusers.ControlNetModel, ControlNet),
    Layout.UNION: (diffusers.ControlNetUnionModel, UnionControlNet),
    Layout.SD3: (diffusers.SD3ControlNetModel, TransformerControlNet),
    Layout.T2I_ADAPTER: (diffusers.T2IAdapter, T2IAdapterNetwork),
}


def open_control(card: ControlCard, family: Family, progress: Progress) -> ControlNetwork:
    """The control network of ``card`` on the device of ``family`` and in its precision.

    Raises `Unsupported` for what was made for other models, `ModelLoadFailed`, with the cause kept, for what cannot be read.
    """
    check_family(card, family.facts.family)
    try:
        return _open(card, family, progress)
    except AquatintError as error:
        error.param = error.param or "controls"
        raise
    except Exception as error:
        msg = f"Control network {card.name!r} cannot be loaded from {card.source!r}: {error}"
        raise ModelLoadFailed(msg, param="controls") from error


def _open(card: ControlCard, family: Family, progress: Progress) -> ControlNetwork:
    path = _located(card, progress)
    folder = _folder(path) if path.is_dir() else None
    files = _files(folder, family.dtype) if folder is not None else [path]
    shapes = {name: shape for file in files for name, shape in inspect(file).shapes.items()}
    found = layout(shapes, str(path))
    check_layout(found, card, str(path))
    # Views of the mapped files: what is kept is copied tensor by tensor, in its precision, to the device.
    tensors = renamed({name: tensor for file in files for name, tensor in _views(file).items()}, found)
    kind, wrapper = _KINDS[found]
    if folder is not None:
        config = kind.load_config(folder, local_files_only=True)
    else:
        own = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        config = blueprint(own, found, family.network.config)
    module = fill(
        unfilled(kind, config),
        tensors,
        f"Control network {card.name!r} ({path.name})",
        device=family.device,
        dtype=family.dtype,
        done=lambda fraction: progress(card.name, fraction),
    )
    if found is not Layout.SD3:
        module.to(memory_format=torch.channels_last)
    network: ControlNetwork = wrapper(card.name, module)
    network.check(family)
    return network


def _located(card: ControlCard, progress: Progress) -> Path:
    source = sources.parse(card.source, card.revision)
    if source.scheme == "bundled":
        source = Source(source.scheme, f"{_BUNDLED}/{source.rest}")
    return sources.locate(source, progress, only=_PARTS[0])


def _folder(path: Path) -> Path:
    """The folder with the config: ``path`` itself, or that of a part within a pipeline."""
    for folder in (path, *(path / part for part in _PARTS)):
        if (folder / "config.json").is_file():
            sources.check_weights(folder)
            return folder
    msg = f"{path} holds no control network as diffusers keeps them: there is no config.json. Name a single file as 'file:'."
    raise ModelLoadFailed(msg)


def _files(folder: Path, dtype: torch.dtype) -> list[Path]:
    files = weight_files(folder, dtype)
    if not files:
        msg = f"{folder} holds no weights: there is no diffusion_pytorch_model.safetensors."
        raise ModelLoadFailed(msg)
    return files


def _views(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
