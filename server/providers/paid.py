"""Providers whose work costs money, as those see them who ask for more than one thing at once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation
from server.providers.provider import Provider


class Paid(Provider, Protocol):
    """Sets money aside before it asks."""

    def reserved(self, requests: Sequence[ImageRequest], call: Call) -> AbstractAsyncContextManager[Sequence[Provider]]:
        """Inside the block the money for all ``requests`` is set aside: a provider for each, in their order, good for it once.

        Raises `BudgetSpent` before the block, with nothing set aside, if there is too little for all of them. What was not begun
        by the end of the block is given back.
        """
        ...


class Free:
    """What nobody counts: there is always enough for it."""

    __slots__ = ("_provider",)

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """The provider's."""
        return await self._provider.generate(request, call)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)

    @asynccontextmanager
    async def reserved(self, requests: Sequence[ImageRequest], _call: Call) -> AsyncIterator[Sequence[Provider]]:
        """The provider itself, for each of ``requests``."""
        yield [self._provider] * len(requests)
