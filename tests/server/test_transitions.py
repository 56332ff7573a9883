"""The states of a job: every way through them keeps what a job promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.contract.errors import EngineFailure
from pipelines.contract.request import ImageRequest, Sampling
from server.domain.asset import Asset, Format
from server.domain.job import Job, JobState, Order
from server.domain.transitions import (
    Begun,
    CancelAsked,
    Cancelled,
    Dropped,
    Failed,
    IllegalTransition,
    Overdue,
    Succeeded,
    advance,
)

ASSET = Asset("a.png", Format.PNG, 8, 8, 1, 99)
FAILED = Failed(EngineFailure("broken").report())
HAPPENINGS = [Begun("me", 9.0), Begun("you", 9.0), Succeeded((ASSET,)), FAILED, CancelAsked(), Cancelled(), Dropped(), Overdue()]


def job(*, durable):
    request = ImageRequest(id="a", model="m", prompt="p", width=8, height=8, seeds=(1,), sampling=Sampling("euler", 4, 1.0))
    return Job("a", Order(request), JobState.QUEUED, 1.0, durable=durable)


@given(st.booleans(), st.lists(st.sampled_from(HAPPENINGS), max_size=12))
def test_every_way_keeps_the_promises(durable, happenings):
    now, current = 1.0, job(durable=durable)
    for happening in happenings:
        now += 1
        before = current
        try:
            current = advance(before, happening, now)
        except IllegalTransition:
            continue
        if before.state.final:
            assert current == before, "what is over stays as it is"
        assert (current.owner is not None) == (current.lease is not None) == (current.state is JobState.RUNNING)
        assert (current.finished is not None) == current.state.final
        assert bool(current.assets) == (current.state is JobState.SUCCEEDED)
        assert (current.error is not None) == (current.state.final and current.state is not JobState.SUCCEEDED)
        assert current.started is None or before.started in (None, current.started), "it begins for the first time once"
        assert before.attempts <= current.attempts <= before.attempts + 1
        if current.state is JobState.QUEUED:
            assert current.durable or not before.attempts, "only what was accepted for good is queued again"


@pytest.mark.parametrize(
    ("durable", "way", "ends"),
    [
        (True, [Begun("me", 9.0), Succeeded((ASSET,))], "succeeded"),
        (True, [Begun("me", 9.0), Dropped()], "queued"),
        (False, [Begun("me", 9.0), Dropped()], "failed"),
        (True, [Begun("me", 9.0), CancelAsked()], "running"),
        (True, [Begun("me", 9.0), CancelAsked(), Cancelled()], "cancelled"),
        (True, [Begun("me", 9.0), CancelAsked(), Dropped()], "cancelled"),
        (True, [Begun("me", 9.0), CancelAsked(), Succeeded((ASSET,))], "succeeded"),
        (True, [CancelAsked()], "cancelled"),
        (True, [Overdue()], "expired"),
        (True, [FAILED], "failed"),
        (True, [Begun("me", 9.0), FAILED], "failed"),
    ],
)
def test_where_each_way_leads(durable, way, ends):
    current = job(durable=durable)
    for happening in way:
        current = advance(current, happening, 5.0)
    assert current.state.value == ends


@pytest.mark.parametrize("happening", [Succeeded((ASSET,)), Cancelled(), Dropped()])
def test_what_has_not_begun_cannot_end_so(happening):
    with pytest.raises(IllegalTransition, match="queued"):
        advance(job(durable=True), happening, 5.0)


def test_what_is_running_is_not_begun_again():
    running = advance(job(durable=True), Begun("me", 9.0), 5.0)
    with pytest.raises(IllegalTransition):
        advance(running, Begun("you", 9.0), 6.0)
