"""What a batch takes of the device's memory beside the weights."""

from typing import Protocol

import torch


class Meter(Protocol):
    """Measures one batch at a time."""

    def begin(self) -> None:
        """A batch begins."""
        ...

    def end(self) -> tuple[int, int] | None:
        """Bytes that it took at its peak, and bytes that were free for it; None where neither can be known."""
        ...


class NoMeter:
    """Main memory belongs to everybody: a peak there says nothing of a batch."""

    def begin(self) -> None:
        """Nothing to note."""

    def end(self) -> None:
        """Nothing is known."""
        return


class CudaMeter:
    """By the counters of torch's caching allocator, which cost no synchronisation."""

    def __init__(self, device: torch.device) -> None:
        """Measure ``device``."""
        self._device = device
        self._before = 0
        self._free = 0

    def begin(self) -> None:
        """Note what is taken and what is free, the allocator's own cache included."""
        self._before = torch.cuda.memory_allocated(self._device)
        cached = torch.cuda.memory_reserved(self._device) - self._before
        self._free = torch.cuda.mem_get_info(self._device)[0] + cached
        torch.cuda.reset_peak_memory_stats(self._device)

    def end(self) -> tuple[int, int]:
        """The peak over what was taken before."""
        return max(0, torch.cuda.max_memory_allocated(self._device) - self._before), self._free


def meter_of(device: torch.device) -> Meter:
    """The meter for ``device``."""
    return CudaMeter(device) if device.type == "cuda" else NoMeter()
