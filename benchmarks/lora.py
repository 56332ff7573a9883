"""What LoRAs cost in a tick: sixteen rows with eight different ones, against eight ticks of two rows, and against none.

    python benchmarks/lora.py                                   the demo checkpoint on this machine's CPU
    python benchmarks/lora.py --model /models/sd15 --device cuda --dtype float16 --size 512

The LoRAs are random, on all attention and feed-forward layers, of one rank. Every round times every case once, in turn, and only
ratios within a round are taken: other programs slow all of them down alike. Writes benchmarks/results/lora.json.
"""

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines.adapters.additions import NOTHING, Additions
from pipelines.adapters.evaluation import evaluate
from pipelines.adapters.lora import Lora, LoraPart, open_lora
from pipelines.contract.adapters import LoraCard
from pipelines.contract.catalog import Dtype, ModelCard
from pipelines.contract.family import Family as Architecture
from pipelines.families import loading
from pipelines.families.conditioning import stack
from pipelines.families.family import Family, Prompt

ROOT = Path(__file__).resolve().parents[1]
ROWS, LORAS = 16, 8
TARGETS = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2", "add_q_proj", "add_k_proj", "add_v_proj")


def quiet(_part: str, _done: float) -> None:
    """Progress that nobody watches."""


def random_loras(family: Family, rank: int, folder: Path) -> list[Lora]:
    """`LORAS` files as kohya writes them, opened."""
    found = []
    for index in range(LORAS):
        generator = torch.Generator().manual_seed(index)
        tensors = {}
        for path, module in family.network.named_modules():
            if isinstance(module, torch.nn.Linear) and path.endswith(TARGETS):
                name = f"lora_unet_{path.replace('.', '_')}"
                outputs, inputs = module.weight.shape
                tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator) * inputs**-0.5
                tensors[f"{name}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator) * 0.01
        file = folder / f"{index}.safetensors"
        save_file(tensors, file)
        found.append(open_lora(LoraCard(str(index), f"file:{file}", family.facts.family), family, quiet))
    return found


class Ticks:
    """Evaluations of the network at one size."""

    def __init__(self, family: Family, size: int) -> None:
        """Sixteen rows of ``size`` x ``size`` pixels with a prompt each."""
        side = size // family.vae.scale
        torch.manual_seed(0)
        self._family = family
        self._latents = torch.randn(ROWS, family.network.config.in_channels, side, side).to(family.device, family.dtype)
        self._times = torch.linspace(50, 950, ROWS).to(family.device)
        self._told = stack(family.encode_prompts([Prompt(f"thing number {row}") for row in range(ROWS)]))

    def run(self, first: int, last: int, loras: list[Lora | None]) -> None:
        """One tick of the rows from ``first`` to ``last``, each with its own LoRA or none."""
        additions = [NOTHING if lora is None else Additions(loras=(LoraPart(lora, 0.8),)) for lora in loras]
        own = slice(first, last)
        evaluate(self._family, self._latents[own], self._times[own], self._told.rows(first, last), additions)


def cases(ticks: Ticks, loras: list[Lora]) -> Mapping[str, Callable[[], None]]:
    """What is timed; each does sixteen evaluations."""
    each = [lora for lora in loras for _ in range(ROWS // LORAS)]
    pairs = range(0, ROWS, ROWS // LORAS)

    def apart(own: list[Lora | None]) -> None:
        for first in pairs:
            last = first + ROWS // LORAS
            ticks.run(first, last, own[first:last])

    none: list[Lora | None] = [None] * ROWS
    half = [lora if row % 4 < 2 else None for row, lora in enumerate(each)]
    return {
        "one tick, no LoRA": lambda: ticks.run(0, ROWS, none),
        "one tick, all rows with the same LoRA": lambda: ticks.run(0, ROWS, [loras[0]] * ROWS),
        "one tick, half of the rows with 4 LoRAs": lambda: ticks.run(0, ROWS, half),
        "one tick, 8 LoRAs": lambda: ticks.run(0, ROWS, list(each)),
        "8 ticks of 2 rows, a LoRA each": lambda: apart(list(each)),
        "8 ticks of 2 rows, no LoRA (as if merged)": lambda: apart(none),
    }


@torch.inference_mode()
def measure(family: Family, size: int, rank: int, seconds: float) -> dict[str, Any]:
    """Rounds for about ``seconds``; of each case the median time and the median ratio to the tick without LoRAs."""
    with tempfile.TemporaryDirectory() as folder:
        loras = random_loras(family, rank, Path(folder))
    timed = cases(Ticks(family, size), loras)
    times: dict[str, list[float]] = {name: [] for name in timed}
    for run in timed.values():
        run()
    end = time.perf_counter() + seconds
    while not times["one tick, no LoRA"] or time.perf_counter() < end:
        for name, run in timed.items():
            start = time.perf_counter()
            run()
            if family.device.type == "cuda":
                torch.cuda.synchronize(family.device)
            times[name].append(time.perf_counter() - start)
    plain = times["one tick, no LoRA"]
    lines = [
        {
            "case": name,
            "milliseconds": round(1000 * median(own), 2),
            "ratio": round(median(mine / other for mine, other in zip(own, plain, strict=True)), 3),
        }
        for name, own in times.items()
    ]
    together, apart = times["one tick, 8 LoRAs"], times["8 ticks of 2 rows, a LoRA each"]
    return {
        "rounds": len(plain),
        "lora_bytes": loras[0].bytes,
        "modules": len(loras[0].network),
        "lines": lines,
        "apart_over_together": round(median(one / other for one, other in zip(apart, together, strict=True)), 3),
    }


def text(found: Mapping[str, Any]) -> str:
    """The table."""
    title = f"sixteen evaluations at {found['size']} px, rank {found['rank']}"
    head = f"| {title} | ms | times the tick without LoRAs |\n|---|---|---|\n"
    lines = "".join(f"| {line['case']} | {line['milliseconds']:.1f} | {line['ratio']:.2f} |\n" for line in found["lines"])
    return f"{head}{lines}\n8 ticks of 2 rows take {found['apart_over_together']:.2f} times as long as one tick with 8 LoRAs.\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:demo", help="a folder in diffusers layout, or a source as in models.yaml")
    parser.add_argument("--family", type=Architecture, default=Architecture.SD, choices=list(Architecture))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", type=Dtype, default=Dtype.AUTO, choices=list(Dtype))
    parser.add_argument("--size", type=int, default=128, help="pixels along a side")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "lora.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = arguments.model if ":" in arguments.model else f"dir:{Path(arguments.model).absolute()}"
    card = ModelCard("model", source, arguments.family, dtype=arguments.dtype)
    family = loading.load(card, torch.device(arguments.device), quiet)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", "benchmarks/lora.py", *sys.argv[1:]]),
        "device": arguments.device,
        "threads": arguments.threads,
        "load_before": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "size": arguments.size,
        "rank": arguments.rank,
        **measure(family, arguments.size, arguments.rank, arguments.seconds),
    }
    arguments.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(text(found))


if __name__ == "__main__":
    main()
