"""Group commit: whoever comes while a transaction is under way shares the next one: a commit costs more than what is in it."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_AT_ONCE = 128


class Grouped(Generic[Asked, Answer]):
    """Does what is asked for in as few transactions as there have to be; nobody waits for others who have not come yet."""

    __slots__ = ("_transact", "_waiting", "_working")

    def __init__(self, transact: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]]) -> None:
        """``transact`` does a group in one transaction: an answer for each, in order, or an exception, and nothing is done."""
        self._transact = transact
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._working: asyncio.Task[None] | None = None

    async def do(self, asked: Asked) -> Answer:
        """What ``transact`` answers to ``asked``, or raises for it alone. It may be done though the caller has hung up."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._working is None:
            # Of nobody's request: what is logged there must not bear the name of whoever came first.
            self._working = asyncio.create_task(self._work(), name="group commit", context=contextvars.Context())
        return await future

    async def _work(self) -> None:
        group: list[tuple[Asked, asyncio.Future[Answer]]] = []
        try:
            while self._waiting:
                await self._gathered()
                group, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                try:
                    await self._together(group)
                except Exception as error:  # noqa: BLE001 - theirs, whatever it is
                    if len(group) == 1:
                        _fail(group, error)
                    else:
                        for each in group:
                            await self._alone(each)
        finally:
            self._working = None
            for _, future in [*group, *self._waiting]:  # none are left, unless the server ends
                future.cancel()
            self._waiting = []

    async def _gathered(self) -> None:
        """Return once all whose requests have arrived are here: none of them is left for a transaction of its own."""
        count = 0
        while count < len(self._waiting) < _AT_ONCE:
            count = len(self._waiting)
            await asyncio.sleep(0)

    async def _together(self, group: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        answers = await self._transact([asked for asked, _ in group])
        for (_, future), answer in zip(group, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _alone(self, one: tuple[Asked, asyncio.Future[Answer]]) -> None:
        """What one of them asks for that makes the database refuse is not the others' failure."""
        try:
            await self._together([one])
        except Exception as error:  # noqa: BLE001 - as above
            _fail([one], error)


def _fail(group: Sequence[tuple[Asked, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)
