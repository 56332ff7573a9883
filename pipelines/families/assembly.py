"""A module without weights, and its filling from tensors that are already by its names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.construction import building

_SHOWN = 3


def blank(kind: Any, config: Path, **changes: Any) -> Any:
    """A ``kind`` (of diffusers or transformers) as the folder ``config`` describes it, its weights on the meta device."""
    if issubclass(kind, diffusers.ModelMixin):
        return unfilled(kind, {**kind.load_config(config, local_files_only=True), **changes})
    with building(torch.float32), init_empty_weights():
        return kind(kind.config_class.from_pretrained(config, local_files_only=True))


def unfilled(kind: Any, config: Mapping[str, Any]) -> Any:
    """A ``kind`` of diffusers as ``config`` describes it, its weights on the meta device."""
    with building(torch.float32), init_empty_weights():
        return kind.from_config(config)


def fill(
    module: Any,
    tensors: dict[str, torch.Tensor],
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    done: Callable[[float], None],
) -> Any:
    """``module`` with its weights from ``tensors``, on ``device`` in ``dtype``, in evaluation mode; ``tensors`` is emptied.

    Tensors that the module does not know are left out. ``done`` hears the fraction that is there, at each percent. Raises
    `ModelLoadFailed` when some are missing or have other shapes.
    """
    wanted = dict(module.state_dict())
    for alias, source in (getattr(module, "_tied_weights_keys", None) or {}).items():
        if source in tensors:
            wanted.pop(alias, None)
    _check(name, {key: tuple(value.shape) for key, value in wanted.items()}, tensors)
    total = sum(value.numel() for value in wanted.values())
    kept_wide = getattr(module, "_keep_in_fp32_modules", None) or () if dtype is torch.float16 else ()
    ready: dict[str, torch.Tensor] = {}
    filled = 0
    for key in list(tensors):
        tensor = tensors.pop(key)
        if key not in wanted:
            continue
        own = torch.float32 if any(part in kept_wide for part in key.split(".")) else dtype
        # A copy even where nothing changes: a view of the mapped file would break when the file is overwritten.
        ready[key] = torch.empty(tensor.shape, device=device, dtype=own).copy_(tensor)
        before, filled = filled, filled + tensor.numel()
        if filled * 100 // total > before * 100 // total:
            done(filled / total)
    module.load_state_dict(ready, strict=False, assign=True)
    if getattr(module, "_tied_weights_keys", None):
        module.tie_weights()
    return module.requires_grad_(requires_grad=False).eval().to(device)


def _check(name: str, wanted: dict[str, tuple[int, ...]], tensors: dict[str, torch.Tensor]) -> None:
    missing = [key for key in wanted if key not in tensors]
    if missing:
        msg = f"{name} lacks {len(missing)} of its {len(wanted)} tensors, {', '.join(missing[:_SHOWN])} for one."
        raise ModelLoadFailed(msg)
    for key, shape in wanted.items():
        found = tuple(tensors[key].shape)
        if found != shape:
            msg = f"{name}: {key} is {_times(found)}, this architecture has {_times(shape)}."
            raise ModelLoadFailed(msg)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a single number"
