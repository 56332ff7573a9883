"""One torch device, made ready to serve."""

import logging
import os

import msgspec
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from pipelines.engine.runner import Runner
from pipelines.engine.scheduler import Policy
from pipelines.engine.torch_runner import DeviceFault, TorchRunner

__all__ = ["DeviceFault", "Opened", "open_device"]

_BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Opened(msgspec.Struct, frozen=True):
    """A device, its runner, and the policy that suits it."""

    device: torch.device
    name: str
    memory_bytes: int
    runner: Runner
    policy: Policy


def open_device(name: str, threads: int) -> Opened:
    """Open ``cpu`` or ``cuda:N``; ``threads`` > 0 sets torch's CPU threads."""
    _quiet()
    if threads > 0:
        torch.set_num_threads(threads)
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        facts = torch.cuda.get_device_properties(device)
        return Opened(device, facts.name, facts.total_memory, TorchRunner(device, _BUCKETS), Policy(buckets=_BUCKETS))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # No compiled graphs on a CPU, and every padded row costs its full time: no buckets.
    return Opened(device, f"CPU, {torch.get_num_threads()} threads", memory, TorchRunner(device), Policy())


def _quiet() -> None:
    """Libraries print hints and bars for interactive users; a worker's log is for its operator."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
