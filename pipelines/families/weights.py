"""One module of a checkpoint as the memory books know it: bytes that move."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_OWN = ("_", "transformers_version", "dtype", "torch_dtype")
"""Config entries that say where a module came from or how it is held, not what it is."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ModuleWeights:
    """A module on a device, in RAM, or let go of. It moves in place: whoever holds the module sees it move.

    On a CPU both places are the same memory, and moving is only bookkeeping.
    """

    __slots__ = ("_device", "bytes", "identity", "module")

    def __init__(self, module: Any, *, shareable: bool = False) -> None:
        """Take a loaded module where it is; that is its device."""
        self.module = module
        self.identity = _fingerprint(module) if shareable else None
        self._device: torch.device = next((tensor.device for tensor in _tensors(module)), torch.device("cpu"))
        self.bytes = _bytes(module)
        """Parameters and buffers as loaded; tensors that share storage count once."""

    def measure(self) -> None:
        """Count again: what is quantised after loading takes up less."""
        self.bytes = _bytes(self.module)

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
        """Whether both can take each other's place: of one class and config, with bit-equal weights."""
        if self.identity is None or self.identity != other.identity or self.module is None or other.module is None:
            return False
        theirs = other.module.state_dict()
        return all(torch.equal(mine, theirs[name].to(mine.device)) for name, mine in self.module.state_dict().items())


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


def _fingerprint(module: Any) -> str:
    """Class, config, names, shapes, types, and of each tensor the sum of its bits as integers: exact on any device."""
    found = hashlib.sha256(f"{type(module).__qualname__} {sorted(_config(module).items(), key=str)}".encode())
    for name, tensor in module.state_dict().items():
        bits = tensor.view(_INTEGERS[tensor.element_size()]) if tensor.is_floating_point() else tensor
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {int(bits.sum(dtype=torch.int64))}".encode())
    return found.hexdigest()


def _config(module: Any) -> Mapping[str, Any]:
    config = module.config
    entries = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {key: value for key, value in entries.items() if not key.startswith(_OWN)}
