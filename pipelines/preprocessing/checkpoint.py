"""Weights of annotators from disk: safetensors, or the pickles that the world has, of which only tensors are taken."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.convert import Unconvertible, read
from pipelines.families.weights_file import inspect, is_pickle

Tensors = dict[str, torch.Tensor]

_WRAPPINGS = ("state_dict", "model", "depth_model", "params")
"""Under which training programs keep the weights."""
_PARALLEL = "module."
"""What torch's DataParallel puts before each name."""


def tensors(path: Path) -> Tensors:
    """The tensors in ``path``, by the names that their network has for them.

    A pickle is read with ``weights_only=True``, so that nothing in it is run. Raises `ModelLoadFailed` where ``path`` is absent,
    damaged, names code, or holds no tensors.
    """
    try:
        pickled = is_pickle(path)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise ModelLoadFailed(msg) from error
    found: Any
    if pickled:
        try:
            found = read(path)
        except Unconvertible as error:
            raise ModelLoadFailed(str(error)) from error
    else:
        inspect(path)
        found = load_file(path)
    state = _unwrapped(found)
    weights = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not weights:
        msg = f"{path} holds no tensors."
        raise ModelLoadFailed(msg)
    return {name.removeprefix(_PARALLEL): value for name, value in weights.items()}


def fill(network: Any, weights: Mapping[str, torch.Tensor], what: str, *, derived: Iterable[str] = ()) -> Any:
    """``network`` with ``weights``, for inference; ``derived`` are endings of names that it computes by itself.

    Raises `ModelLoadFailed`, naming what is wrong, unless all its weights are there in the right shapes.
    """
    endings = ("num_batches_tracked", *derived)
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(endings)}
    given = {name: tensor for name, tensor in weights.items() if not name.endswith(endings)}
    lacking = [name for name in own if name not in given]
    foreign = [name for name in given if name not in own]
    if lacking or foreign:
        name = (lacking or foreign)[0]
        problem = f"{len(lacking)} of its weights are missing and {len(foreign)} are unknown, such as {name!r}"
        msg = f"These are no weights for {what}: {problem}."
        raise ModelLoadFailed(msg)
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            problem = f"{name!r} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            msg = f"These are no weights for {what}: {problem}."
            raise ModelLoadFailed(msg)
    network.load_state_dict(given, strict=False)
    return network.float().eval().requires_grad_(False)  # noqa: FBT003 - torch's signature


def _unwrapped(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        return {}
    for wrapping in _WRAPPINGS:
        inner = found.get(wrapping)
        if isinstance(inner, Mapping):
            return inner
    return found
