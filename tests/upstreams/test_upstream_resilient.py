"""Attempts, deadlines and charges around an upstream that does what the test says."""

import asyncio

import msgspec
import pytest

from pipelines.contract.errors import AquatintError, DeadlineExceeded, InvalidRequest
from pipelines.contract.request import ImageRequest, Sampling
from server.catalog.upstreams import Kind, Timeouts, Upstream
from server.domain.call import Call
from server.domain.clock import SetClock
from server.domain.failures import (
    ModerationBlocked,
    UpstreamAmbiguous,
    UpstreamBusy,
    UpstreamMisconfigured,
    UpstreamUnavailable,
)
from server.domain.generation import Usage
from server.providers.breaker import FAILURES, Breaker
from server.providers.each import Each
from server.providers.fake import FunctionProvider, flat
from server.providers.lane import Lane
from server.providers.paid import Free
from server.providers.resilient import Resilient
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics

REQUEST = ImageRequest("r", "up", "a cat", 64, 64, (1,), Sampling("euler", 4, 1.0))


class Records:
    def __init__(self):
        self.begun = set()

    async def begin(self, request_id, road):
        if (request_id, road) in self.begun:
            return False
        self.begun.add((request_id, road))
        return True

    async def withdraw(self, request_id, road):
        self.begun.discard((request_id, road))


class Show:
    """A resilient provider over ``script``: each attempt raises its next error, or answers."""

    def __init__(self, *script, idempotent=False, attempts=4, **timeouts):
        self.clock, self.slept, self.asked, self.records = SetClock(), [], [], Records()
        self.script = list(script)
        self.metrics = Metrics()
        self.hanging = asyncio.Event()
        self.doubtful = False
        timeouts = Timeouts(**{"attempt": 30.0, "total": 60.0, **timeouts})
        upstream = Upstream("up", Kind.OPENAI, attempts=attempts, idempotent=idempotent, timeouts=timeouts, on=True)
        self.breaker = Breaker("up", self.clock)
        self.lane = Lane("up", concurrency=2, queue=2, clock=self.clock, sleep=self.sleep)
        self.resilient = Resilient(
            upstream,
            FunctionProvider(self.attempt),
            lane=self.lane,
            breaker=self.breaker,
            records=self.records,
            clock=self.clock,
            metrics=self.metrics,
            log=silent(),
            sleep=self.sleep,
            chance=lambda: 0.0,
        )

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.clock.advance(seconds)

    async def attempt(self, request, _call):
        self.asked.append(request.id)
        step = self.script.pop(0) if self.script else None
        if step == "hang":
            await self.hanging.wait()
        if isinstance(step, float):
            self.clock.advance(step)
        if isinstance(step, Exception):
            raise step
        return flat(request)

    def doubt(self, doubtful):
        self.doubtful = doubtful

    async def run(self, **call):
        heard = {"sending": lambda: self.doubt(True), "spared": lambda: self.doubt(False)}
        return await self.resilient.generate(REQUEST, Call("r", **heard, **call))

    async def left(self, ready, **call):
        """Who asks, and leaves when ``ready`` says so."""
        task = asyncio.create_task(self.run(**call))
        while not ready():  # noqa: ASYNC110 - anything may make it true
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_is_retryable_is_retried_with_growing_pauses():
    show = Show(UpstreamUnavailable("no"), UpstreamUnavailable("no"), UpstreamUnavailable("no"))
    assert (await show.run()).seeds == (1,)
    assert (len(show.asked), show.slept) == (4, [0.5, 1.0, 2.0])


async def test_attempts_are_counted_and_the_last_error_is_told():
    show = Show(*[UpstreamUnavailable(f"no {n}") for n in range(9)], attempts=3)
    with pytest.raises(UpstreamUnavailable, match="no 2"):
        await show.run()
    assert len(show.asked) == 3


async def test_retry_after_is_obeyed():
    show = Show(UpstreamBusy("later", retry_after=7.0))
    await show.run()
    assert show.slept == [7.0]


async def test_a_retry_that_would_come_too_late_is_not_waited_for():
    show = Show(UpstreamBusy("later", retry_after=61.0))
    with pytest.raises(UpstreamBusy) as caught:
        await show.run()
    assert (len(show.asked), show.slept, caught.value.retry_after) == (1, [], 61.0)


@pytest.mark.parametrize(
    "error", [ModerationBlocked("no"), InvalidRequest("no"), UpstreamMisconfigured("no"), UpstreamAmbiguous("?")]
)
async def test_nothing_else_is_retried(error):
    show = Show(error)
    with pytest.raises(type(error)):
        await show.run()
    assert len(show.asked) == 1


async def test_an_attempt_without_an_answer_is_ambiguous_and_not_repeated():
    show = Show("hang", attempt=0.05)
    with pytest.raises(UpstreamAmbiguous):
        await show.run()
    assert len(show.asked) == 1


async def test_an_idempotent_upstream_may_be_asked_again():
    show = Show("hang", UpstreamAmbiguous("?"), attempt=0.05, idempotent=True)
    await show.run()
    assert show.asked == ["r"] * 3, "with the same key"


async def test_the_calls_own_deadline_counts():
    show = Show(UpstreamUnavailable("no"), UpstreamUnavailable("no"))
    with pytest.raises(UpstreamUnavailable):
        await show.run(deadline=show.clock.time() + 0.6)
    assert (len(show.asked), show.slept) == (2, [0.5])
    with pytest.raises(DeadlineExceeded):
        await show.run(deadline=show.clock.time() - 1)
    assert len(show.asked) == 2


@pytest.mark.parametrize(("deadline", "error"), [(20.0, DeadlineExceeded), (None, UpstreamBusy)])
async def test_a_turn_that_comes_too_late_is_not_taken(deadline, error):
    show = Show()
    async with show.lane.turn(100.0):
        async with show.lane.turn(100.0):
            until = None if deadline is None else show.clock.time() + deadline
            late = asyncio.create_task(show.run(deadline=until, durable=True))
            while not show.lane.waiting:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
            show.clock.advance(60.0)
        with pytest.raises(error):
            await late
    assert (show.asked, show.doubtful, show.records.begun) == ([], False, set())
    await show.run()


async def test_nobody_waits_for_a_place_beyond_the_time():
    show = Show(total=0.05)
    async with show.lane.turn(100.0), show.lane.turn(100.0):
        with pytest.raises(UpstreamBusy, match="in time"):
            await show.run()
        assert (show.lane.active, show.lane.waiting) == (2, 0)
    await show.run()
    assert show.asked == ["r"]


async def test_an_open_circuit_sends_nothing():
    show = Show(*[UpstreamUnavailable("no")] * FAILURES, attempts=FAILURES)
    with pytest.raises(UpstreamUnavailable):
        await show.run()
    with pytest.raises(UpstreamUnavailable, match="left alone"):
        await show.run()
    assert len(show.asked) == FAILURES
    show.clock.advance(60)
    await show.run()
    await show.run()
    assert len(show.asked) == FAILURES + 2


async def test_a_probe_that_is_cancelled_leaves_the_way_to_the_next_one():
    show = Show(*[UpstreamUnavailable("no")] * FAILURES, "hang", attempts=FAILURES)
    with pytest.raises(UpstreamUnavailable):
        await show.run()
    show.clock.advance(60)
    await show.left(lambda: len(show.asked) == FAILURES + 1)
    await show.run()
    assert show.breaker.state == "closed"


async def test_who_leaves_late_does_not_end_the_probing():
    show = Show("hang", *[UpstreamUnavailable("no")] * FAILURES, "hang", attempts=FAILURES, total=600.0, attempt=300.0)
    late = asyncio.create_task(show.run())
    while not show.asked:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    with pytest.raises(UpstreamUnavailable):
        await show.run()
    show.clock.advance(60.0)
    probe = asyncio.create_task(show.run())
    while show.breaker.state != "half_open" or len(show.asked) < FAILURES + 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    with pytest.raises(UpstreamUnavailable, match="left alone"):
        await show.run()
    show.hanging.set()
    await probe
    assert show.breaker.state == "closed"


async def test_refusals_and_rate_limits_open_no_circuit():
    show = Show(*[ModerationBlocked("no"), UpstreamBusy("later"), UpstreamMisconfigured("key")] * FAILURES, attempts=1)
    for _ in range(3 * FAILURES):
        with pytest.raises(AquatintError):
            await show.run()
    await show.run()


async def test_cancelling_reaches_the_attempt_and_frees_everything():
    show = Show("hang")
    await show.left(lambda: show.asked, durable=True)
    assert show.doubtful
    assert show.records.begun == {("r", "up")}, "it may be at work there"
    assert (show.lane.active, show.lane.waiting) == (0, 0)
    await show.run()


async def test_who_leaves_before_anything_was_sent_leaves_no_doubt():
    show = Show()
    async with show.lane.turn(60.0), show.lane.turn(60.0):
        await show.left(lambda: show.lane.waiting == 1, durable=True)
    assert (show.asked, show.doubtful, show.records.begun) == ([], False, set())
    await show.run(durable=True)
    assert show.asked == ["r"]


async def test_who_leaves_between_two_attempts_leaves_no_doubt():
    show = Show(UpstreamUnavailable("no"))
    pausing = asyncio.Event()

    async def pause(_seconds):
        pausing.set()
        await asyncio.Event().wait()

    show.resilient._sleep = pause
    await show.left(pausing.is_set, durable=True)
    assert (show.asked, show.doubtful, show.records.begun) == (["r"], False, set())


async def test_what_was_sent_by_another_server_is_not_sent_and_not_charged_again():
    show = Show()
    await show.records.begin("r", "up")
    with pytest.raises(UpstreamAmbiguous, match="not sent again"):
        await show.run(durable=True)
    assert (show.asked, show.doubtful, show.records.begun) == ([], False, {("r", "up")})


async def test_records_that_cannot_be_written_hide_no_error():
    show = Show(UpstreamMisconfigured("key"))

    async def withdraw(_request_id, _road):
        raise OSError("the database is away")

    show.records.withdraw = withdraw
    with pytest.raises(UpstreamMisconfigured):
        await show.run(durable=True)


@pytest.mark.parametrize("later", [UpstreamUnavailable("no"), UpstreamMisconfigured("key"), "late", "busy", "circuit"])
async def test_a_later_failure_does_not_end_the_doubt(later):
    show = Show(UpstreamAmbiguous("who knows"), later, attempts=2, idempotent=True, total=5.0)

    async def between(seconds):
        show.clock.advance(seconds if later != "late" else 60.0)
        if later == "busy":
            show.lane.learn({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"})
        while later == "circuit" and show.breaker.state == "closed":
            show.breaker.failed()

    show.resilient._sleep = between
    with pytest.raises(UpstreamAmbiguous, match="who knows"):
        await show.run()
    assert show.doubtful


async def test_a_refusal_under_the_same_key_ends_the_doubt():
    show = Show(UpstreamAmbiguous("who knows"), ModerationBlocked("no"), idempotent=True)
    with pytest.raises(ModerationBlocked):
        await show.run()
    assert not show.doubtful


async def test_a_durable_job_that_may_have_been_charged_is_not_sent_again():
    show = Show(UpstreamAmbiguous("?"))
    for _ in range(2):
        with pytest.raises(UpstreamAmbiguous):
            await show.run(durable=True)
    assert len(show.asked) == 1
    assert len((await Show().run(durable=True)).pictures) == 1


async def test_a_durable_job_that_was_refused_may_be_sent_again():
    show = Show(UpstreamMisconfigured("key"))
    with pytest.raises(UpstreamMisconfigured):
        await show.run(durable=True)
    await show.run(durable=True)
    assert len(show.asked) == 2


async def test_several_images_are_several_requests_and_one_answer():
    show = Show(UpstreamUnavailable("no"))

    async def priced(request, call):
        made = await show.resilient.generate(request, call)
        return msgspec.structs.replace(made, usage=Usage(output_tokens=5))

    many = msgspec.structs.replace(REQUEST, seeds=(3, 4, 5))
    made = await Each(Free(FunctionProvider(priced))).generate(many, Call("r"))
    assert (made.seeds, made.usage.output_tokens, len(made.pictures)) == ((3, 4, 5), 15, 3)
    assert sorted(show.asked) == ["r-0", "r-0", "r-1", "r-2"], "only the one that failed is asked for again"
    with pytest.raises(ModerationBlocked):
        await Each(Free(FunctionProvider(Show(ModerationBlocked("no")).attempt))).generate(many, Call("r"))


class Images:
    """A provider of one image at a time: by seed it makes it, sends it and hangs, or raises."""

    def __init__(self, **steps):
        self.steps, self.doubtful, self.sent = steps, False, asyncio.Event()

    async def one(self, request, call):
        step = self.steps[f"s{request.seeds[0]}"]
        if step == "unsent":
            await asyncio.Event().wait()
        call.sending()
        if step == "hang":
            self.sent.set()
            await asyncio.Event().wait()
        if isinstance(step, Exception):
            await self.sent.wait()
            if not isinstance(step, UpstreamAmbiguous):
                call.spared()
            raise step
        self.sent.set()
        return flat(request)

    def doubt(self, doubtful):
        self.doubtful = doubtful

    async def run(self):
        many = msgspec.structs.replace(REQUEST, seeds=(1, 2))
        heard = {"sending": lambda: self.doubt(True), "spared": lambda: self.doubt(False)}
        await Each(Free(FunctionProvider(self.one))).generate(many, Call("r", **heard))


@pytest.mark.parametrize("other", ["made", "hang"])
@pytest.mark.parametrize("error", [UpstreamUnavailable("no"), UpstreamMisconfigured("key"), UpstreamAmbiguous("?")])
async def test_what_failed_beside_what_may_be_charged_is_ambiguous(other, error):
    images = Images(s1=error, s2=other)
    with pytest.raises(UpstreamAmbiguous):
        await images.run()
    assert images.doubtful


async def test_a_refusal_beside_what_may_be_charged_is_a_refusal():
    images = Images(s1=ModerationBlocked("no"), s2="made")
    with pytest.raises(ModerationBlocked):
        await images.run()
    assert images.doubtful, "the other is on the bill"


async def test_what_failed_before_anything_was_made_is_what_it_is():
    images = Images(s1=UpstreamUnavailable("no"), s2="unsent")
    images.sent.set()
    with pytest.raises(UpstreamUnavailable):
        await images.run()
    assert not images.doubtful


async def test_attempts_are_in_the_metrics():
    show = Show(UpstreamBusy("later"))
    await show.run()
    text = show.metrics.render().decode()
    assert 'aquatint_upstream_attempts_total{outcome="ok",road="up"} 1.0' in text
    assert 'aquatint_upstream_attempts_total{outcome="upstream_busy",road="up"} 1.0' in text
