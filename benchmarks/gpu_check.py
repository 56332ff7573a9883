"""One device and one model, measured: parity, throughput per row bucket, peak memory, decode and text times, the engine.

    scripts/gpu_check                                   the demo checkpoint on the GPU
    scripts/gpu_check --model /models/sd15 --dtype float16
    scripts/gpu_check --device cpu                      the same program without a GPU

Writes benchmarks/results/DEVICE-MODEL.json.
"""

import argparse
import datetime as dt
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import engine_rate
import torch
from limit import Size, decoding, encoding, evaluating, prompting, timed
from reference import DEMO, Reference
from servers import ROOT

BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def device_name(device: str) -> str:
    """What the device calls itself."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"cpu-{torch.get_num_threads()}-threads"


def parity(device: str) -> dict[str, Any]:
    """The parity tests on this device: exit status and pytest's last line."""
    if not (ROOT / "tests" / "parity").is_dir():
        return {"ran": False, "why": "there is no tests/parity"}
    command = [sys.executable, "-m", "pytest", "tests/parity", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    environment = os.environ | {"AQUATINT_TEST_DEVICE": device}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"ran": True, "status": done.returncode, "summary": lines[-1] if lines else done.stderr[-500:], "failures": failures}


def peak_bytes(device: str) -> int:
    """Most device memory since `forget_peak`; on a CPU, most of the whole process since its start."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: str) -> None:
    """Begin a new measurement of the peak."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def sizes_of(reference: Reference) -> list[Size]:
    """The size that the model was made for, a taller one, and for real models half and one and a half of it."""
    side = int(reference.txt2img.unet.config.sample_size) * int(reference.txt2img.vae_scale_factor)
    if side < 256:
        return [(side, side), (side, side * 3 // 2)]
    return [(side // 2, side // 2), (side, side), (side, side * 3 // 2), (side * 3 // 2, side * 3 // 2)]


def curve(reference: Reference, size: Size, device: str, seconds: float) -> Iterator[dict[str, Any]]:
    """One line per bucket, until memory runs out."""
    for rows in BUCKETS:
        forget_peak(device)
        try:
            spent = timed(evaluating(reference, size, rows), seconds)
        except torch.OutOfMemoryError:
            yield {"rows": rows, "out_of_memory": True}
            return
        yield {
            "rows": rows,
            "milliseconds": round(spent * 1000, 3),
            "rows_per_second": round(rows / spent, 2),
            "peak_bytes": peak_bytes(device),
        }


def one(work: Callable[[], object], device: str, seconds: float) -> dict[str, Any]:
    """Time and peak memory of one call."""
    forget_peak(device)
    try:
        return {"milliseconds": round(timed(work, seconds) * 1000, 3), "peak_bytes": peak_bytes(device)}
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}


def measure(reference: Reference, sizes: Sequence[Size], device: str, seconds: float) -> dict[str, Any]:
    """Everything of the bare networks, printed as it comes."""
    found: dict[str, Any] = {"unet": {}, "decode": {}, "encode": {}}
    for size in sizes:
        name = f"{size[0]}x{size[1]}"
        print(f"\n{name}\n  rows       ms    rows/s   peak MiB", flush=True)
        found["unet"][name] = []
        for line in curve(reference, size, device, seconds):
            found["unet"][name].append(line)
            if line.get("out_of_memory"):
                print(f"  {line['rows']:4d}   out of memory")
            else:
                figures = f"{line['milliseconds']:8.1f} {line['rows_per_second']:9.1f} {line['peak_bytes'] / 2**20:10.0f}"
                print(f"  {line['rows']:4d} {figures}", flush=True)
        found["decode"][name] = one(decoding(reference, size), device, seconds)
        found["encode"][name] = one(encoding(reference, size), device, seconds)
        print(f"  VAE decode {found['decode'][name]}, encode {found['encode'][name]}", flush=True)
    found["text_8_prompts"] = one(prompting(reference, 8), device, seconds)
    print(f"\ntext encoder, 8 prompts: {found['text_8_prompts']}", flush=True)
    return found


def main() -> int:
    """Measure, print, write; the status is that of the parity tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", type=Path, default=DEMO, help="a folder in diffusers layout")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16 on CUDA, float32 on a CPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument("--no-parity", action="store_true", help="leave the parity tests out")
    arguments = parser.parse_args()
    device: str = arguments.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; `--device cpu` runs the same program without one")
    dtype = arguments.dtype or ("float16" if device.startswith("cuda") else "float32")
    found: dict[str, Any] = {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "model": arguments.model.name,
        "dtype": dtype,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.startswith("cuda") else None,
        "diffusers": diffusers.__version__,
    }
    print(f"{found['device']}, {found['model']}, {dtype}, torch {found['torch']}")
    if not arguments.no_parity:
        print("parity tests ...", flush=True)
        found["parity"] = parity(device)
        print(f"  {found['parity'].get('summary', found['parity'])}")
    reference = Reference(arguments.model, DTYPES[dtype], device)
    sizes = sizes_of(reference)
    found |= measure(reference, sizes, device, arguments.seconds)
    native = next(size for size in reversed(sizes) if size[0] == size[1]) if len(sizes) == 2 else sizes[1]
    del reference
    forget_peak(device)
    print("\nthe engine, end to end ...", flush=True)
    found["engine"] = engine_rate.measure(arguments.model, device, dtype, native)
    print(f"  {found['engine']}")
    slug = re.sub(r"[^a-z0-9]+", "-", f"{found['device']}-{found['model']}".lower()).strip("-")
    target = ROOT / "benchmarks" / "results" / f"{slug}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {target.relative_to(ROOT)}")
    return int(found.get("parity", {}).get("status", 0))


if __name__ == "__main__":
    sys.exit(main())
