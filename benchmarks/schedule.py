"""What the scheduler's decisions leave of the limit: the closed loop of `online.py`, with measured times instead of networks.

    python benchmarks/schedule.py                 by the times of the last run of online.py
    python benchmarks/schedule.py --clients 64    with more of them

Nothing is computed and nothing is timed: each batch that the scheduler forms takes what the bare network took for so many rows of
that size. So the same figures come out on every machine, whatever else it does, and a change of the scheduler can be judged
alone. Encoders are left out, of both sides.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from limit import Costs
from workload import Job, jobs

from pipelines.contract.messages import Phase
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.row import Row, rows_of
from pipelines.engine.scheduler import Scheduler

RESULTS = Path(__file__).parent / "results" / "online.json"
MODEL, MAX_ROWS = "demo", 16


@dataclass(slots=True)
class Outcome:
    """What came of a simulated run; seconds."""

    seconds: float = 0.0
    ideal: float = 0.0
    """What the work would have taken at the limit."""
    ticks: list[int] = field(default_factory=list)
    """Evaluations in each tick."""
    latencies: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the ideal."""
        return self.ideal / self.seconds


def costs_of(found: Mapping[str, Any]) -> Costs:
    """The measured times of a run of `online.py`."""
    limit = found["limit"]

    def size(text: str) -> tuple[int, int]:
        width, _, height = text.partition("x")
        return int(width), int(height)

    curves = {size(text): {int(rows): ms / 1000 for rows, ms in curve.items()} for text, curve in limit["unet_ms"].items()}
    return Costs(unet=curves, decode={size(text): ms / 1000 for text, ms in limit["decode_ms"].items()})


def seconds_of(curve: Mapping[int, float], rows: int) -> float:
    """What ``rows`` take: between measured sizes in proportion, beyond the largest by its time for each."""
    if rows in curve:
        return curve[rows]
    known = sorted(curve)
    for below, above in pairwise(known):
        if below < rows < above:
            return curve[below] + (curve[above] - curve[below]) * (rows - below) / (above - below)
    return curve[known[-1]] * rows / known[-1]


def simulated(work: Iterator[Job], costs: Costs, *, clients: int, images: int) -> Outcome:
    """``clients`` that always have a request in flight, until ``images`` are done."""
    scheduler, found, began = Scheduler(), Outcome(), dict[str, float]()
    scheduler.limit(MODEL, MAX_ROWS)

    def enter() -> None:
        row = _row(next(work), len(began))
        began[row.request.id] = found.seconds
        scheduler.add([row])

    for _ in range(clients):
        enter()
    while len(found.latencies) < images:
        batch = scheduler.schedule()
        if batch is None:
            break
        size = (batch.key.width, batch.key.height)
        if batch.phase is Phase.DENOISE:
            found.ticks.append(batch.size)
            found.seconds += seconds_of(costs.unet[size], batch.size)
            found.ideal += batch.size * costs.per_row(size)
        else:
            found.seconds += costs.decode[size] * len(batch.rows)
            found.ideal += costs.decode[size] * len(batch.rows)
        scheduler.update(batch, advanced={row.id: row.position + 1 for row in batch.rows}, out_of_memory=False, fault=False)
        if batch.phase is Phase.DECODE:
            scheduler.remove([row.id for row in batch.rows])
            for row in batch.rows:
                found.latencies.append(found.seconds - began[row.request.id])
                enter()
    return found


def _row(job: Job, order: int) -> Row:
    """A row of ``job`` that is encoded already."""
    sampling = Sampling(job.sampler, job.steps, job.guidance)
    request = ImageRequest(str(order), MODEL, "", job.width, job.height, (job.seed,), sampling)
    (row,) = rows_of(request, order)
    row.phase, row.total = Phase.DENOISE, job.evaluations // (2 if job.guided else 1)
    return row


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where online.py wrote its figures")
    arguments = parser.parse_args()
    costs = costs_of(json.loads(arguments.results.read_text(encoding="utf-8")))
    print("| seed | of the ideal | evaluations in a tick | latency, s | its p95, s |\n|---:|---:|---:|---:|---:|")
    for seed in range(3):
        found = simulated(jobs(seed), costs, clients=arguments.clients, images=arguments.images)
        late = sorted(found.latencies)[int(0.95 * len(found.latencies))]
        print(f"| {seed} | {found.share:.0%} | {fmean(found.ticks):.1f} | {fmean(found.latencies):.2f} | {late:.2f} |")


if __name__ == "__main__":
    main()
