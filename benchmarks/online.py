"""Aquatint against what else one could run, on a mixed workload over HTTP, in one run and in alternating rounds.

    python benchmarks/online.py --quick     about five minutes on two cores
    python benchmarks/online.py             about twenty, for figures to quote
    python benchmarks/online.py --smoke     a minute, figures without meaning
    python benchmarks/online.py --readme    no measuring: put the last run's table into README.md

The servers are Aquatint, diffusers behind a lock (baseline_serial.py) and request-level batching of equal requests
(baseline_batch.py); the limit is what the bare networks cost (limit.py). All compute in float32 with the same threads.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import io
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import report
import torch
from limit import Costs, measure
from loadgen import Round, arrivals, client, closed_loop, draw, open_loop
from PIL import Image, ImageChops
from reference import Reference, png
from servers import ROOT, Server, Ticks, aquatint, baseline, scratch
from workload import SIZES, Job, picture, take

RESULTS = ROOT / "benchmarks" / "results"
AQUATINT, SERIAL, BATCH = "Aquatint", "diffusers behind a lock", "batches of equal requests"
OVERLOAD = 1.2
"""Open-loop arrivals, in multiples of what the serial baseline can serve."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    clients: int
    cycles: int
    """Closed-loop cycles: a round of each server."""
    images: tuple[int, int, int]
    """Images of one round: Aquatint, the lock, batches of equal requests."""
    lonely: int
    """Images of the lonely client."""
    open_seconds: float
    figure_seconds: float
    """For each figure of the bare networks, in each pass."""


QUICK = Plan(clients=16, cycles=1, images=(64, 48, 40), lonely=8, open_seconds=40.0, figure_seconds=0.4)
SMOKE = Plan(clients=4, cycles=1, images=(8, 8, 6), lonely=2, open_seconds=6.0, figure_seconds=0.02)
FULL = Plan(clients=16, cycles=3, images=(96, 64, 48), lonely=24, open_seconds=150.0, figure_seconds=1.0)


@dataclass(slots=True)
class Tally:
    """Rounds of one server, added up."""

    rounds: list[Round] = field(default_factory=list)
    ticks: dict[str, float] = field(default_factory=dict)

    def add(self, measured: Round, ticks: dict[str, float]) -> None:
        """One more round."""
        self.rounds.append(measured)
        self.ticks = {name: self.ticks.get(name, 0.0) + value for name, value in ticks.items()}


def say(text: str) -> None:
    """A progress line."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def play(server: Server, work: Sequence[Job], clients: int, tally: Tally) -> None:
    """One closed-loop round."""
    ticks = Ticks(server)
    measured = asyncio.run(closed_loop(server.url, work, clients))
    tally.add(measured, ticks.since())
    took = max(sample.done for sample in measured.samples)
    say(f"  {server.name}: {len(work)} images in {took:.1f} s{complaint(measured)}")


def complaint(measured: Round) -> str:
    """What went wrong in a round, in a few words."""
    return f"; {len(measured.errors)} FAILED, first: {measured.errors[0]}" if measured.errors else ""


def closed(servers: Sequence[Server], plan: Plan) -> dict[str, Tally]:
    """``plan.clients`` clients without pause, the servers in turns, each working off the same list from its beginning."""
    tallies = {server.name: Tally() for server in servers}
    for cycle in range(plan.cycles):
        say(f"closed loop, {plan.clients} clients, cycle {cycle + 1} of {plan.cycles}")
        for server, images in zip(servers, plan.images, strict=True):
            play(server, take(images, seed=100 + cycle), plan.clients, tallies[server.name])
    return tallies


def lonely(ours: Server, serial: Server, reference: Reference, work: Sequence[Job]) -> list[dict[str, float]]:
    """One client, one request at a time: seconds of each job at Aquatint, at the serial server and in this process."""
    seconds: list[dict[str, float]] = []

    async def over_http(server: Server, job: Job) -> float:
        async with client(server.url) as http:
            start = time.perf_counter()
            await draw(http, job)
            return time.perf_counter() - start

    def in_process(job: Job) -> float:
        start = time.perf_counter()
        reference.draw([job], [picture(*job.size)])
        return time.perf_counter() - start

    for job in work:
        first, once = in_process(job), asyncio.run(over_http(ours, job))
        behind = asyncio.run(over_http(serial, job))
        again, second = asyncio.run(over_http(ours, job)), in_process(job)
        seconds.append({"aquatint": (once + again) / 2, "serial": behind, "in_process": (first + second) / 2})
    return seconds


def overload(ours: Server, serial: Server, rate: float, plan: Plan) -> dict[str, Any]:
    """The same Poisson arrivals at both servers, one after the other."""
    times = arrivals(rate, plan.open_seconds)
    work = take(len(times), seed=1)
    found: dict[str, Any] = {"rate": rate, "seconds": plan.open_seconds, "arrivals": len(times)}
    for name, server in (("aquatint", ours), ("serial", serial)):
        say(f"open loop, {rate:.2f} arrivals/s for {plan.open_seconds:.0f} s: {server.name}")
        measured = asyncio.run(open_loop(server.url, work, times))
        took = max(sample.done for sample in measured.samples)
        say(f"  answered {len(times)} in {took:.1f} s{complaint(measured)}")
        found[name] = {
            "latencies": [sample.latency for sample in measured.samples if sample.error is None],
            "errors": len(measured.errors),
        }
    return found


def same_pictures(server: Server, reference: Reference, work: Sequence[Job]) -> int:
    """The largest difference, in 1/255, between the server's pictures and diffusers' own."""

    async def fetch(job: Job) -> bytes:
        async with client(server.url) as http:
            return (await draw(http, job))[0]

    worst = 0
    for job in work:
        theirs = reference.draw([job], [picture(*job.size)])[0]
        ours = Image.open(io.BytesIO(asyncio.run(fetch(job)))).convert("RGB")
        if ours.size != theirs.size:
            message = f"{server.name} answered {ours.size} where {job.size} was asked"
            raise RuntimeError(message)
        difference = ImageChops.difference(ours, Image.open(io.BytesIO(png(theirs))).convert("RGB"))
        worst = max(worst, *difference.tobytes())
    return worst


def run(plan: Plan, threads: int, folder: Path) -> dict[str, Any]:
    """Everything, in one go."""
    say("loading the checkpoint and starting three servers")
    with started(threads, folder) as servers:
        ours, serial, _ = servers
        reference, bare = Reference(), Reference().channels_last()
        for server in servers:
            server.wait_ready()
        say("warming up, and comparing pictures with diffusers' own")
        differences = {server.name: same_pictures(server, reference, take(8, seed=3)) for server in servers}
        say("the bare networks, first pass")
        costs = measure(bare, SIZES, plan.figure_seconds)
        tallies = closed(servers, plan)
        say("the bare networks, second pass")
        costs = measure(bare, SIZES, plan.figure_seconds, costs)
        ideal = costs.ideal_rate(take(1000))
        table = [report.row(name, tally.rounds, tally.ticks, costs, ideal) for name, tally in tallies.items()]
        say(f"lonely client, {plan.lonely} images")
        alone = lonely(ours, serial, reference, take(plan.lonely, seed=1))
        served = next(line["share_of_ideal"] for line in table if line["server"] == serial.name)
        rate = OVERLOAD * served * costs.ideal_rate(take(round(served * ideal * plan.open_seconds), seed=1))
        crowded = overload(ours, serial, rate, plan)
    return {
        "machine": machine(threads),
        "plan": asdict(plan),
        "picture_difference": differences,
        "ideal_images_per_second": ideal,
        "limit": describe(costs),
        "closed": table,
        "lonely": alone,
        "open": crowded,
    }


@contextlib.contextmanager
def started(threads: int, folder: Path) -> Iterator[tuple[Server, Server, Server]]:
    """The three servers, stopped at the end whatever happens."""
    servers = (
        Server(AQUATINT, aquatint(), threads, folder),
        Server(SERIAL, baseline("baseline_serial", threads), threads, folder),
        Server(BATCH, baseline("baseline_batch", threads), threads, folder),
    )
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


def describe(costs: Costs) -> dict[str, Any]:
    """The limit's figures in milliseconds."""
    return {
        "unet_ms": {
            f"{width}x{height}": {str(rows): round(seconds * 1000, 2) for rows, seconds in curve.items()}
            for (width, height), curve in costs.unet.items()
        },
        "decode_ms": {f"{width}x{height}": round(cost * 1000, 2) for (width, height), cost in costs.decode.items()},
        "encode_ms": {f"{width}x{height}": round(cost * 1000, 2) for (width, height), cost in costs.encode.items()},
        "prompt_ms": round(costs.text * 1000, 2),
    }


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", "benchmarks/online.py", *sys.argv[1:]]),
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "threads": threads,
        "openmp": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_"))},
        "platform": platform.platform(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--smoke", action="store_true", help="a handful of requests, to see that the program works")
    parser.add_argument("--readme", action="store_true", help="do not measure; write the last results into README.md")
    parser.add_argument("--results", type=Path, default=RESULTS / "online.json")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads of every server")
    arguments = parser.parse_args()
    if not arguments.readme:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        torch.set_num_threads(arguments.threads)
        with scratch() as folder:
            plan = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
            found = run(plan, arguments.threads, Path(folder))
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        arguments.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say(f"wrote {arguments.results}")
    found = json.loads(arguments.results.read_text(encoding="utf-8"))
    print()
    print(report.text(found))
    if arguments.readme:
        report.write_readme(ROOT / "README.md", found)


if __name__ == "__main__":
    main()
