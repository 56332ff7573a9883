"""Roads whose cost is counted: one wrapper for those that cost money, one for our own workers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec.structs import replace

from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.generation import Generation
from server.domain.sending import Sending
from server.domain.spending import Hold
from server.gateway.treasury import Treasury
from server.providers.provider import Provider

Asks = Callable[[ImageRequest, Call], tuple[str, str | None]]
"""Model and quality; an empty model is the one of models.yaml, no quality may be any."""


def _unsaid(_request: ImageRequest, _call: Call) -> tuple[str, None]:
    return "", None


class Metered:
    """The road to an upstream: what a request may cost is set aside before, and settled by what it did cost after.

    What fails gives it back, unless it was sent and nobody can say that nothing was done: then all of it is counted.
    """

    __slots__ = ("_asks", "_clock", "_provider", "_road", "_treasury")

    def __init__(self, provider: Provider, road: str, treasury: Treasury, clock: Clock, asks: Asks = _unsaid) -> None:
        """``road`` is the upstream's name in models.yaml; ``asks`` says which model and quality it will be asked for."""
        self._provider, self._road, self._treasury, self._clock = provider, road, treasury, clock
        self._asks = asks

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` there; raises `BudgetSpent` before anything is sent."""
        async with self.reserved((request,), call) as (provider,):
            return await provider.generate(request, call)

    @asynccontextmanager
    async def reserved(self, requests: Sequence[ImageRequest], call: Call) -> AsyncIterator[Sequence[Provider]]:
        """Inside the block the money for all ``requests`` is set aside: a provider for each, good for that one, once.

        Raises `BudgetSpent` before the block, with nothing set aside, if there is too little for all of them. One after the other
        is asked for: of several such calls that a budget has not enough for at the same time, all may be refused.
        """
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self._reserved(request, call)) for request in requests]

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)

    @asynccontextmanager
    async def _reserved(self, request: ImageRequest, call: Call) -> AsyncIterator["_Held"]:
        model, quality = self._asks(request, call)
        hold = await self._treasury.reserve(self._road, request, call, model=model, quality=quality)
        held = _Held(self._provider, hold, self._treasury, self._clock)
        try:
            yield held
        finally:
            if not held.begun:
                await self._treasury.release(hold)


class _Held:
    """The road for one request whose money is set aside."""

    __slots__ = ("_clock", "_hold", "_provider", "_treasury", "begun")

    def __init__(self, provider: Provider, hold: Hold, treasury: Treasury, clock: Clock) -> None:
        self._provider, self._hold, self._treasury, self._clock = provider, hold, treasury, clock
        self.begun = False
        """Whether the request sees to the end of its hold itself."""

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request``, and end its hold by what comes of it."""
        self.begun = True
        began, sending = self._clock.monotonic(), Sending(call)
        try:
            made = await self._provider.generate(request, sending.call)
        except (Exception, asyncio.CancelledError):
            # Whatever it was, even a mistake of ours or a caller that left: what counts is whether the upstream may be at work.
            if sending.doubtful:
                self._treasury.lose(self._hold, self._clock.monotonic() - began)
            else:
                await self._treasury.release(self._hold)
            raise
        usage = self._treasury.settle(self._hold, request, made, self._clock.monotonic() - began)
        return replace(made, usage=usage)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)


class Counted:
    """The road to our own workers: what they did is written down after; nothing is refused."""

    __slots__ = ("_clock", "_provider", "_treasury")

    def __init__(self, provider: Provider, treasury: Treasury, clock: Clock) -> None:
        self._provider, self._treasury, self._clock = provider, treasury, clock

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` here."""
        began = self._clock.monotonic()
        made = await self._provider.generate(request, call)
        usage = self._treasury.count(request, call, made, self._clock.monotonic() - began)
        return replace(made, usage=usage)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)
