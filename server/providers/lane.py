"""The way to one upstream: so many at the same time, so many that wait, and none while its rate limit is used up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from server.domain.clock import Clock
from server.domain.failures import UpstreamBusy
from server.providers.rate_limits import allowance

Sleep = Callable[[float], Awaitable[None]]


class Lane:
    """Owns the places. First come, first served."""

    __slots__ = ("_active", "_clock", "_counted", "_left", "_name", "_places", "_queue", "_sleep", "_until", "_waiting")

    def __init__(
        self,
        name: str,
        *,
        concurrency: int,
        queue: int,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        counted: Callable[[int, int], None] = lambda _active, _waiting: None,
    ) -> None:
        """``counted`` hears how many are under way and how many wait, at each change."""
        self._name, self._queue, self._clock, self._sleep, self._counted = name, queue, clock, sleep, counted
        self._places = asyncio.Semaphore(concurrency)
        self._active = self._waiting = 0
        self._left: int | None = None
        self._until = 0.0

    @property
    def active(self) -> int:
        """Requests under way."""
        return self._active

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._waiting

    def learn(self, headers: Mapping[str, str]) -> None:
        """What an answer said of the upstream's rate limit."""
        found = allowance(headers)
        if found is not None:
            # What is under way was sent before the upstream counted, or is counted already: the smaller number is the safe one.
            self._left, self._until = found.remaining, self._clock.monotonic() + found.seconds

    @asynccontextmanager
    async def turn(self, until: float) -> AsyncIterator[None]:
        """Wait for a place and hold it for the block.

        Raises `UpstreamBusy` if too many wait already, or the rate limit ends, or the turn would come, after ``until``
        (monotonic seconds).
        """
        self._check(until)
        self._waiting += 1
        self._count()
        try:
            await self._place(until)
        finally:
            self._waiting -= 1
            self._count()
        self._active += 1
        self._count()
        try:
            yield
        finally:
            self._active -= 1
            self._places.release()
            self._count()

    async def _place(self, until: float) -> None:
        try:
            async with asyncio.timeout(until - self._clock.monotonic()):
                await self._places.acquire()
        except TimeoutError:
            msg = f"No place became free for the request to the upstream {self._name!r} in time."
            raise UpstreamBusy(msg) from None
        try:
            await self._allowed(until)
        except BaseException:
            self._places.release()
            raise

    def _check(self, until: float) -> None:
        if self._places.locked() and self._waiting >= self._queue:
            msg = f"{self._waiting} requests wait for the upstream {self._name!r} already."
            raise UpstreamBusy(msg, retry_after=5.0)
        self._refuse_late(until)

    def _refuse_late(self, until: float) -> None:
        if self._left == 0 and self._until > until:
            msg = f"The rate limit of the upstream {self._name!r} is used up."
            raise UpstreamBusy(msg, retry_after=self._until - self._clock.monotonic())

    async def _allowed(self, until: float) -> None:
        """Return when the rate limit has room for one more."""
        while self._left is not None:
            now = self._clock.monotonic()
            if now >= self._until:
                self._left = None
            elif self._left > 0:
                self._left -= 1
                return
            else:
                self._refuse_late(until)
                await self._sleep(self._until - now)

    def _count(self) -> None:
        self._counted(self._active, self._waiting)
