"""Which devices get a worker, found without importing torch."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path


def resolve(wanted: tuple[str, ...], found: Callable[[], int]) -> tuple[str, ...]:
    """The devices to run workers on, one each; ``found`` counts CUDA devices and is asked only if needed."""
    if wanted == ("auto",):
        count = found()
        return tuple(f"cuda:{index}" for index in range(count)) or ("cpu",)
    devices: list[str] = []
    for name in wanted:
        devices.extend([f"cuda:{index}" for index in range(max(found(), 1))] if name == "cuda" else [name])
    return tuple(devices)


def by_driver() -> int | None:
    """How many devices ``nvidia-smi`` lists; None if there is no answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        listing = subprocess.run(  # noqa: S603 - a fixed command, found on PATH
            [program, "-L"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if listing.returncode != 0:
        return None
    return sum(1 for line in listing.stdout.splitlines() if line.startswith("GPU "))


def count_cuda(environ: Mapping[str, str], dev: Path = Path("/dev"), driver: Callable[[], int | None] = by_driver) -> int:
    """How many CUDA devices torch will see; CUDA_VISIBLE_DEVICES narrows what the driver reports."""
    present = driver()
    if present is None:
        present = sum(1 for node in dev.glob("nvidia*") if re.fullmatch(r"nvidia\d+", node.name))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    # CUDA stops at the first entry that is no device; "" and "-1" hide everything.
    count = 0
    for entry in visible.split(","):
        name = entry.strip()
        if not (name.startswith(("GPU-", "MIG-")) or (name.isdigit() and int(name) < present)):
            break
        count += 1
    return count if present else 0
