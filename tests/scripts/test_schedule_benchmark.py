"""The benchmark of the scheduler alone: simulated, so that its figures can be asserted."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from limit import Costs
from schedule import seconds_of, simulated
from workload import SIZES, jobs

CURVE = {1: 1.0, 4: 2.0, 16: 4.0}


def costs(curve: dict[int, float]) -> Costs:
    return Costs(unet=dict.fromkeys(SIZES, curve), decode=dict.fromkeys(SIZES, 0.5))


@pytest.mark.parametrize(("rows", "seconds"), [(1, 1.0), (2, 1.0 + 1 / 3), (4, 2.0), (10, 3.0), (32, 8.0)])
def test_times_between_measured_ones(rows: int, seconds: float) -> None:
    assert seconds_of(CURVE, rows) == pytest.approx(seconds)


def test_the_same_work_takes_the_same_time_and_no_less_than_the_ideal() -> None:
    first, second = (simulated(jobs(0), costs(CURVE), clients=16, images=40) for _ in range(2))
    assert first == second
    assert len(first.latencies) >= 40
    assert 0.5 < first.share < 1.0


def test_who_gains_nothing_by_batches_loses_nothing_without() -> None:
    alone = simulated(jobs(0), costs({1: 1.0, 16: 16.0}), clients=1, images=5)
    assert alone.share == pytest.approx(1.0)
    assert max(alone.ticks) == 2  # a guided row


def test_more_clients_fill_the_ticks() -> None:
    few, many = (simulated(jobs(0), costs(CURVE), clients=clients, images=60) for clients in (2, 64))
    assert many.share > 0.9 > few.share
    assert max(many.ticks) == 16
