"""One torch device, made ready to serve."""

import logging
import os

import msgspec
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from pipelines.engine.notes import Surroundings
from pipelines.engine.runner import Runner
from pipelines.engine.scheduler import Policy
from pipelines.engine.torch_runner import TorchRunner

_RESERVE_SHARE, _RESERVE_BYTES = 0.15, 3 << 30
"""Unless a budget is given, so much of a GPU is left to the images: the larger of a share and what decoding 1024 px takes."""

_RAM_SHARE = 0.5
"""Unless a budget is given, the workers of all GPUs together keep evicted weights in so much of the machine's RAM."""

_ADAPTER_SHARE, _ADAPTER_BYTES = 0.15, 2 << 30
"""Unless a budget is given, adapters may take up so much of a GPU, out of what models could; on a CPU so many bytes of RAM."""

_BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)


class Opened(msgspec.Struct, frozen=True):
    """A device, its runner, and the policy that suits it."""

    device: torch.device
    name: str
    memory_bytes: int
    runner: Runner
    policy: Policy
    surroundings: Surroundings
    weights_bytes: int | None = None
    """What models may take up unless told otherwise; None for no limit."""
    adapter_bytes: int = _ADAPTER_BYTES
    """What LoRAs, ControlNets and their like may take up unless told otherwise."""
    ram_bytes: int = 0
    """What evicted models may take up in RAM unless told otherwise."""
    spare_threads: int = 1
    """CPU threads that preprocessing may take beside the ticks."""


def open_device(name: str, threads: int) -> Opened:
    """Open ``cpu`` or ``cuda:N``; ``threads`` > 0 sets torch's CPU threads."""
    _quiet()
    if threads > 0:
        torch.set_num_threads(threads)
    device = torch.device(name)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        facts = torch.cuda.get_device_properties(device)
        adapters = int(facts.total_memory * _ADAPTER_SHARE)
        return Opened(
            device,
            facts.name,
            facts.total_memory,
            TorchRunner(device, buckets=_BUCKETS),
            Policy(buckets=_BUCKETS),
            Surroundings(facts.name, facts.total_memory, torch.__version__),
            weights_bytes=facts.total_memory - max(int(facts.total_memory * _RESERVE_SHARE), _RESERVE_BYTES) - adapters,
            adapter_bytes=adapters,
            ram_bytes=int(memory * _RAM_SHARE / torch.cuda.device_count()),
            spare_threads=max(1, (os.cpu_count() or 1) // (2 * torch.cuda.device_count())),
        )
    # No compiled graphs on a CPU, and every padded row costs its full time: no buckets.
    product = f"CPU, {torch.get_num_threads()} threads"
    return Opened(device, product, memory, TorchRunner(device), Policy(), Surroundings("cpu", memory, torch.__version__))


def _quiet() -> None:
    """Libraries print hints and bars for interactive users; a worker's log is for its operator."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
