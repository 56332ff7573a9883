"""Whose the device's time was."""

import pytest

from pipelines.contract.messages import Phase
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.batch import Batch
from pipelines.engine.row import rows_of
from pipelines.engine.tracker import Tracker


def request(name, guidance, seeds=(1,)):
    return ImageRequest(name, "m", "", 64, 64, seeds, Sampling("euler", 4, guidance))


def test_each_request_is_told_its_share_of_the_device():
    tracker, asked = Tracker(), (request("a", 5.0, (1, 2)), request("b", 1.0))
    rows = []
    for order, each in enumerate(asked):
        tracker.open(each, 0.0)
        rows += rows_of(each, order)
    for row in rows:
        row.total = 4
    key = rows[0].key
    tracker.charge(Batch(Phase.ENCODE, key, tuple(rows), 8), 0.0, 3.0)
    costs = tuple(row.cost for row in rows)
    assert costs == (2, 2, 1)
    tracker.charge(Batch(Phase.DENOISE, key, tuple(rows), 8, costs=costs), 3.0, 8.0)
    tracker.charge(Batch(Phase.DECODE, key, tuple(rows[2:]), 8), 8.0, 9.0)
    shares = [tracker.stats(name).device_seconds for name in "ab"]
    assert shares == [pytest.approx(2.0 + 4.0), pytest.approx(1.0 + 1.0 + 1.0)]
    assert sum(shares) == pytest.approx(9.0), "no time is lost, none counted twice"
