"""An upstream's provider, made dependable: deadlines, retries, a bounded queue, a circuit breaker, and no picture paid for twice.

Resilient
├── Records      a durable job that may have been charged is not sent again by another server
├── Lane         places, queue, rate limit
├── Breaker      leaves alone what does not work
└── provider     one attempt, one answer, or one error of the tree
"""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import AquatintError, DeadlineExceeded, InvalidRequest
from pipelines.contract.messages import Progress
from pipelines.contract.request import ImageRequest
from server.catalog.upstreams import Upstream
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.failures import UpstreamAmbiguous, UpstreamBusy, UpstreamUnavailable
from server.domain.generation import Generation
from server.domain.sending import Sending
from server.providers.backoff import pause
from server.providers.breaker import Breaker
from server.providers.lane import Lane, Sleep
from server.providers.provider import Provider
from server.telemetry.metrics import Metrics


class Records(Protocol):
    """Remembers which requests may have been charged, beyond this process's life."""

    async def begin(self, request_id: str, road: str) -> bool:
        """Write down that it is about to be sent; False if that is written there already."""
        ...

    async def withdraw(self, request_id: str, road: str) -> None:
        """It was not done, and not charged."""
        ...


class Resilient:
    """Wraps the provider of one upstream."""

    __slots__ = ("_breaker", "_chance", "_clock", "_lane", "_log", "_metrics", "_provider", "_records", "_sleep", "_upstream")

    def __init__(
        self,
        upstream: Upstream,
        provider: Provider,
        *,
        lane: Lane,
        breaker: Breaker,
        records: Records,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
        sleep: Sleep = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._upstream, self._provider, self._lane, self._breaker = upstream, provider, lane, breaker
        self._records, self._clock, self._metrics, self._log = records, clock, metrics, log
        self._sleep, self._chance = sleep, chance

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` there, in as many attempts as it takes and is allowed.

        Raises `UpstreamAmbiguous` if an attempt may have been charged, else the last attempt's error: `UpstreamUnavailable` if it
        could be tried later, `DeadlineExceeded` if the call's own deadline had passed before anything was sent.
        """
        until = self._until(call)
        if not call.durable or self._upstream.idempotent:
            return await self._attempts(request, call, until)
        if not await self._records.begin(request.id, self._upstream.name):
            msg = (
                f"The request was sent to {self._upstream.name!r} before, by a server that did not see its end: it may have "
                "been charged, and is not sent again."
            )
            raise UpstreamAmbiguous(msg)
        sending = Sending(call)
        try:
            return await self._attempts(request, sending.call, until)
        except (Exception, asyncio.CancelledError):
            if not sending.doubtful:
                await self._withdraw(request)
            raise

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)

    def _until(self, call: Call) -> float:
        now, total = self._clock.monotonic(), self._upstream.timeouts.total
        return now + (total if call.deadline is None else min(total, call.deadline - self._clock.time()))

    async def _withdraw(self, request: ImageRequest) -> None:
        """Nothing was sent, or nothing was done; who leaves once more meanwhile does not stop it."""
        try:
            await asyncio.shield(self._records.withdraw(request.id, self._upstream.name))
        except Exception:  # noqa: BLE001 - how the request ended matters more; at worst it is not sent again
            self._log.exception("what was not sent cannot be written down", road=self._upstream.name, request=request.id)

    async def _attempts(self, request: ImageRequest, call: Call, until: float) -> Generation:
        attempt = 0
        doubt: UpstreamAmbiguous | None = None
        while True:
            attempt += 1
            try:
                outcome = await self._in_turn(request, call, until)
            except AquatintError as error:
                # It was not sent this time. What became of it before is not known better for that.
                if doubt is not None:
                    raise doubt from error
                raise
            if isinstance(outcome, Generation):
                return outcome
            if isinstance(outcome, UpstreamAmbiguous):
                doubt = outcome
            elif isinstance(outcome, InvalidRequest) or doubt is None:
                # What it does not do it has not done before: the same key, the same answer.
                doubt = None
                call.spared()
            await self._before_next(attempt, outcome, doubt, until)

    async def _in_turn(self, request: ImageRequest, call: Call, until: float) -> Generation | AquatintError:
        """What comes of one attempt; raises what keeps it from being sent."""
        self._check_time(call, until)
        try:
            async with self._lane.turn(until):
                # Its turn may have come late.
                self._check_time(call, until)
                return await self._attempt(request, call, until)
        except UpstreamBusy:
            # Nobody can help whose own time is over; else another road may.
            self._check_deadline(call)
            raise

    def _check_time(self, call: Call, until: float) -> None:
        self._check_deadline(call)
        if self._clock.monotonic() >= until:
            msg = f"The turn of the request to the upstream {self._upstream.name!r} did not come in time."
            raise UpstreamBusy(msg)

    def _check_deadline(self, call: Call) -> None:
        if call.deadline is not None and self._clock.time() >= call.deadline:
            msg = f"There was no time left to ask the upstream {self._upstream.name!r}."
            raise DeadlineExceeded(msg)

    async def _before_next(self, attempt: int, error: AquatintError, doubt: UpstreamAmbiguous | None, until: float) -> None:
        """Wait for the next attempt; if there is to be none raise ``doubt``, or else ``error``."""
        again = isinstance(error, UpstreamUnavailable) or (isinstance(error, UpstreamAmbiguous) and self._upstream.idempotent)
        wait = pause(attempt, error.retry_after, self._chance())
        if not again or attempt >= self._upstream.attempts or self._clock.monotonic() + wait >= until:
            raise doubt or error
        self._log.info(
            "upstream is asked again", road=self._upstream.name, attempt=attempt, code=error.code, seconds=round(wait, 3)
        )
        await self._sleep(wait)

    async def _attempt(self, request: ImageRequest, call: Call, until: float) -> Generation | AquatintError:
        began = self._clock.monotonic()
        seconds = min(self._upstream.timeouts.attempt, until - began)
        outcome: Generation | AquatintError
        probe = self._breaker.admit()
        try:
            call.sending()
            _tell(request, call, 0)
            async with asyncio.timeout(seconds):
                outcome = await self._provider.generate(request, call)
            _tell(request, call, request.sampling.steps)
        except TimeoutError:
            msg = f"The upstream {self._upstream.name!r} did not answer within {seconds:.3g} s; it may have been charged."
            outcome = UpstreamAmbiguous(msg)
        except AquatintError as error:
            outcome = error
        except BaseException:
            # Cancelled, or a mistake of ours: nothing is known of the upstream.
            self._breaker.left(probe=probe)
            self._metrics.upstream_attempt(self._upstream.name, "cancelled", self._clock.monotonic() - began)
            raise
        code = outcome.code if isinstance(outcome, AquatintError) else "ok"
        self._metrics.upstream_attempt(self._upstream.name, code, self._clock.monotonic() - began)
        broken = isinstance(outcome, UpstreamUnavailable | UpstreamAmbiguous) and not isinstance(outcome, UpstreamBusy)
        if broken:
            self._breaker.failed(probe=probe)
        else:
            self._breaker.succeeded(probe=probe)
        return outcome


def _tell(request: ImageRequest, call: Call, step: int) -> None:
    """Whoever watches sees when it leaves for the upstream, and when it is back: some upstreams say nothing between."""
    for image in range(len(request.seeds)):
        call.emit(Progress(request.id, image, step, request.sampling.steps))
