"""What an exception of torch means: no room, a broken device, or one batch's own fault."""

import torch

from pipelines.contract.errors import AquatintError, EngineFailure, ErrorReport, ModelLoadFailed, OutOfMemory
from pipelines.engine.runner import DeviceFault

_NO_ROOM = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""CUDA's caching allocator has a class of its own for it; its libraries and the CPU allocator have only these words."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no room."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in _NO_ROOM)


def is_device_fault(error: BaseException) -> bool:
    """Whether the device is lost: after an illegal access every later CUDA call fails too."""
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def cause(error: AquatintError) -> Exception:
    """What a failed load means to the engine: room may help, the device is broken, or neither."""
    below = error.__cause__
    if below is None or not isinstance(error, ModelLoadFailed):
        return error
    if is_out_of_memory(below):
        return OutOfMemory(str(below))
    return DeviceFault(str(below)) if is_device_fault(below) else error


def report(error: BaseException) -> ErrorReport:
    """What the rows of a batch are told that failed for a reason nobody foresaw."""
    return EngineFailure(f"The network failed: {type(error).__name__}: {error}").report()
