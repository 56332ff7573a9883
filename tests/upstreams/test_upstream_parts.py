"""Breaker, lane, back-off, rate limits, succession: each alone, with a clock that somebody sets."""

import asyncio
import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.catalog.upstreams import Kind, Upstream
from server.domain.clock import SetClock
from server.domain.failures import UpstreamAmbiguous, UpstreamBusy, UpstreamUnavailable
from server.providers import breaker as breakers
from server.providers.backoff import pause
from server.providers.breaker import Breaker, State
from server.providers.lane import Lane
from server.providers.rate_limits import Allowance, allowance, duration, retry_after
from server.providers.refusals import refusal
from server.providers.succession import Listed, Succession, day
from server.telemetry.logs import silent

# Breaker


def tripped(clock, changed=lambda _state: None):
    breaker = Breaker("up", clock, changed)
    for _ in range(breakers.FAILURES):
        breaker.admit()
        breaker.failed()
    return breaker


def test_a_circuit_opens_after_failures_in_a_row_only():
    clock = SetClock()
    breaker = Breaker("up", clock)
    for _ in range(3 * breakers.FAILURES):
        breaker.admit()
        breaker.failed()
        breaker.admit()
        breaker.succeeded()
    assert breaker.state is State.CLOSED
    breaker = tripped(clock)
    with pytest.raises(UpstreamUnavailable) as caught:
        breaker.admit()
    assert caught.value.retry_after == breakers.COOL_SECONDS


def test_one_probe_at_a_time_decides():
    clock, heard = SetClock(), []
    breaker = tripped(clock, heard.append)
    clock.advance(breakers.COOL_SECONDS)
    assert breaker.state is State.HALF_OPEN
    breaker.admit()
    with pytest.raises(UpstreamUnavailable):
        breaker.admit()
    breaker.failed()
    assert breaker.state is State.OPEN
    clock.advance(breakers.COOL_SECONDS)
    assert breaker.state is State.OPEN, "each probe that fails doubles the pause"
    clock.advance(breakers.COOL_SECONDS)
    breaker.admit()
    breaker.succeeded()
    breaker.admit()
    assert breaker.state is State.CLOSED
    assert heard == [State.OPEN, State.HALF_OPEN, State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_a_cancelled_probe_leaves_room_for_the_next():
    clock = SetClock()
    breaker = tripped(clock)
    clock.advance(breakers.COOL_SECONDS)
    breaker.admit()
    breaker.left()
    breaker.admit()


@pytest.mark.parametrize("end", [Breaker.succeeded, Breaker.failed, Breaker.left])
def test_only_the_probe_ends_the_probing(end):
    clock = SetClock()
    breaker = Breaker("up", clock)
    late = breaker.admit()
    for _ in range(breakers.FAILURES):
        breaker.failed(probe=breaker.admit())
    end(breaker, probe=late)
    assert breaker.state is State.OPEN
    clock.advance(breakers.COOL_SECONDS)
    probe = breaker.admit()
    end(breaker, probe=late)
    assert (late, probe, breaker.state) == (False, True, State.HALF_OPEN)
    with pytest.raises(UpstreamUnavailable):
        breaker.admit()
    breaker.failed(probe=probe)
    clock.advance(2 * breakers.COOL_SECONDS - 1)
    assert breaker.state is State.OPEN, "doubled once: by the probe"
    clock.advance(1)
    breaker.succeeded(probe=breaker.admit())
    assert breaker.state is State.CLOSED


# Back-off and headers


@settings(deadline=None)
@given(st.integers(1, 30), st.floats(0, 1), st.none() | st.floats(0, 1000))
def test_pauses_are_bounded_and_obey(attempt, chance, asked):
    seconds = pause(attempt, asked, chance)
    assert 0.375 <= seconds <= max(30.0, (asked or 0) * 1.1)
    assert asked is None or seconds >= asked


def test_pauses_double():
    assert [pause(attempt, None, 0.0) for attempt in (1, 2, 3, 7, 8, 9)] == [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("17", 17.0), ("", None), ("soon", None), ("3x", None)],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "retry-after"]), st.text())
)
def test_no_header_is_trusted(headers):
    found = allowance(headers)
    assert found is None or (found.remaining >= 0 and 0 <= found.seconds <= 86400)
    after = retry_after(headers, 0.0)
    assert after is None or 0 <= after <= 86400


def test_what_headers_say():
    requests = {"X-RateLimit-Remaining-Requests": "3", "x-ratelimit-reset-requests": "20s"}
    assert allowance(requests) == Allowance(3, 20.0)
    assert allowance({**requests, "x-ratelimit-remaining-tokens": "900", "x-ratelimit-reset-tokens": "1s"}) == Allowance(3, 20.0)
    assert allowance({**requests, "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1s"}) == Allowance(0, 1.0)
    assert retry_after({"Retry-After": "7"}, 0.0) == 7.0
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}, 0.0) == 0.25
    assert retry_after({"retry-after": "Sun, 22 Nov 2026 00:00:30 GMT"}, 1795305600.0) == 30.0


# Refusals


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, UpstreamUnavailable),
        (503, UpstreamUnavailable),
        (522, UpstreamUnavailable),
        *((status, UpstreamAmbiguous) for status in (502, 504, 520, 524)),
    ],
)
def test_only_what_the_upstream_says_itself_is_certain(status, error):
    assert type(refusal(status, "x", {"retry-after": "3"}, 0.0, "up")) is error


# Lane


class Pauses:
    """A sleep that moves the clock."""

    def __init__(self, clock):
        self.clock, self.slept = clock, []

    async def __call__(self, seconds):
        self.slept.append(seconds)
        self.clock.advance(seconds)
        await asyncio.sleep(0)


def lane(concurrency=2, queue=1):
    clock = SetClock(1000.0)
    sleep = Pauses(clock)
    counts = []
    made = Lane("up", concurrency=concurrency, queue=queue, clock=clock, sleep=sleep, counted=lambda *two: counts.append(two))
    return made, clock, sleep, counts


async def test_so_many_at_the_same_time_and_so_many_that_wait():
    made, clock, _, counts = lane()
    release = asyncio.Event()
    order = []

    async def one(name):
        async with made.turn(clock.now + 100):
            order.append(name)
            await release.wait()

    tasks = [asyncio.create_task(one(name)) for name in "abc"]
    while made.waiting != 1 or made.active != 2:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    with pytest.raises(UpstreamBusy):
        await one("d")
    assert order == ["a", "b"]
    release.set()
    await asyncio.gather(*tasks)
    assert (order, made.active, made.waiting) == (["a", "b", "c"], 0, 0)
    assert counts[-1] == (0, 0)


async def test_a_cancelled_turn_frees_its_place():
    made, clock, _, _ = lane(concurrency=1, queue=5)
    hold, inside = asyncio.Event(), asyncio.Event()

    async def one():
        async with made.turn(clock.now + 100):
            inside.set()
            await hold.wait()

    first = asyncio.create_task(one())
    await inside.wait()
    second = asyncio.create_task(one())
    while made.waiting != 1:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (made.active, made.waiting) == (0, 0)
    hold.set()
    await one()


async def test_a_rate_limit_that_is_used_up_is_waited_for():
    made, clock, sleep, _ = lane()
    made.learn({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "20s"})
    for _ in range(2):
        async with made.turn(clock.now + 100):
            pass
    assert sleep.slept == [20.0]


async def test_a_rate_limit_that_ends_too_late_is_an_error_at_once():
    made, clock, sleep, _ = lane()
    made.learn({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"})
    with pytest.raises(UpstreamBusy) as caught:
        async with made.turn(clock.now + 10):
            pass
    assert caught.value.retry_after == 20.0
    assert not sleep.slept


# Succession

UPSTREAM = Upstream("openai", Kind.OPENAI, model="a", successors=("b", "c"), base_url="http://x", on=True)
TODAY = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


def succession():
    told = []
    return Succession(UPSTREAM, SetClock(TODAY.timestamp()), silent(), lambda *each: told.append(each)), told


def test_a_model_that_ends_soon_is_a_warning_and_used_until_then():
    made, told = succession()
    made.read([Listed("a", dt.date(2026, 12, 1)), Listed("b", dt.date(2027, 12, 1)), Listed("c")])
    assert made.model == "a"
    assert [(each.model, each.days_left) for each in made.endings] == [("a", 9)]
    assert told == [("a", 9)]


def test_a_model_whose_day_has_come_has_a_successor():
    made, _ = succession()
    made.read([Listed("a", dt.date(2026, 11, 22)), Listed("b"), Listed("c")])
    assert made.model == "b"


def test_a_model_that_is_not_listed_is_gone_unless_none_of_ours_is():
    made, _ = succession()
    made.read([Listed("c"), Listed("z")])
    assert made.model == "c"
    made.read([Listed("my-deployment")])
    assert made.model == "c", "what was known stays known"
    fresh, _ = succession()
    fresh.read([Listed("my-deployment")])
    assert fresh.model == "a"


def test_a_refusal_moves_on_until_nothing_is_left():
    made, _ = succession()
    assert [made.gone("a"), made.gone("b"), made.gone("c")] == ["b", "c", None]


@pytest.mark.parametrize(
    ("said", "found"),
    [("2026-12-01", dt.date(2026, 12, 1)), ("2026-12-01T00:00:00Z", dt.date(2026, 12, 1)), (1796083200, dt.date(2026, 12, 1))],
)
def test_days(said, found):
    assert day(said) == found
    assert day(None) is day("soon") is None
