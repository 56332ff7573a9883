"""One module of a checkpoint as the memory books know it: bytes that move."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

_OWN = ("_", "transformers_version", "dtype", "torch_dtype")
"""Config entries that say where a module came from or how it is held, not what it is."""


class ModuleWeights:
    """A module on a device, in RAM, or let go of. It moves in place: whoever holds the module sees it move.

    On a CPU both places are the same memory, and moving is only bookkeeping.
    """

    __slots__ = ("_device", "bytes", "module")

    def __init__(self, module: Any) -> None:
        """Take a loaded module where it is; that is its device."""
        self.module = module
        self._device: torch.device = next((tensor.device for tensor in _tensors(module)), torch.device("cpu"))
        self.bytes = _bytes(module)
        """Parameters and buffers as loaded; tensors that share storage count once."""

    def to_device(self) -> None:
        """Bring it to its device."""
        self.module.to(self._device, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def to_ram(self) -> None:
        """Bring it to RAM: page-locked where the device is a CUDA one, so that its way back runs at the bus's speed."""
        if self._device.type == "cpu":
            return
        self.module.to("cpu")
        for tensor in _tensors(self.module):
            # Quantised weights are tensors of another class, around several plain ones; they stay pageable.
            if type(tensor.data) is torch.Tensor:
                tensor.data = tensor.data.pin_memory()

    def drop(self) -> None:
        """Let go of the module; its memory is free once nobody else has it."""
        self.module = None

    def same(self, other: "ModuleWeights") -> bool:
        """Whether both are of one class, one config and bit-equal weights; looks at the weights only if all else is equal."""
        mine, theirs = self.module, other.module
        if mine is None or theirs is None or type(mine) is not type(theirs) or self.bytes != other.bytes:
            return False
        if _config(mine) != _config(theirs):
            return False
        pairs = list(zip(mine.state_dict().items(), theirs.state_dict().items(), strict=False))
        if len(mine.state_dict()) != len(theirs.state_dict()):
            return False
        return all(
            name == known and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))
            for (name, a), (known, b) in pairs
        )


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _bytes(module: Any) -> int:
    found: dict[int, int] = {}
    for tensor in _tensors(module):
        for plain in _plain(tensor):
            storage = plain.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def _plain(tensor: Any) -> Iterator[torch.Tensor]:
    """The tensor itself, or those it is made of: a quantised one is its integers and its scales."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor


def _config(module: Any) -> Mapping[str, Any]:
    config = module.config
    entries = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {key: value for key, value in entries.items() if not key.startswith(_OWN)}
