"""The same request twice is done once: keys that callers send along, held while their request is at work."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from structlog.typing import FilteringBoundLogger

from server.domain.clock import Clock
from server.domain.idempotency import Answer, Reservation
from server.domain.ports.idempotency import IdempotencyRepository


class Keeping(msgspec.Struct, frozen=True):
    """How long and how much is remembered."""

    seconds: float = 24 * 3600.0
    """Of each key, from its first request on."""
    lease: float = 30.0
    """A process that is silent for so long has lost its keys; it speaks three times as often. Seconds."""
    most: int = 10_000
    """Keys of one tenant; the oldest answers go first."""
    most_bytes: int = 256 << 20
    """Of the answers to one tenant, compressed."""


class Keeper:
    """Hands out keys, and holds on to those whose requests are at work here."""

    __slots__ = ("_at_work", "_clock", "_closing", "_keeping", "_log", "_repository", "owner")

    def __init__(self, repository: IdempotencyRepository, clock: Clock, log: FilteringBoundLogger, keeping: Keeping) -> None:
        self.owner = secrets.token_hex(8)
        self._repository, self._clock, self._log, self._keeping = repository, clock, log, keeping
        # A list: a key that was lost and taken again here is at work twice.
        self._at_work: list[str] = []
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def running(self, *, alone: bool = False) -> AsyncIterator["Keeper"]:
        """Keys are held inside this block; ``alone``: no other server lives, so those of dead ones are free at once."""
        if alone:
            await self._repository.release_all()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._speak(), name="hold idempotency keys")
            try:
                yield self
            finally:
                self._closing.set()

    async def reserve(self, tenant: str, key: str, fingerprint: str) -> Reservation | Answer:
        """Take ``key`` for the request that ``fingerprint`` is, or the answer to it. Raises `KeyInUse` or `KeyReused`."""
        wanted = Reservation(tenant, key, fingerprint, self.owner, secrets.token_hex(12))
        now = self._clock.time()
        found = await self._repository.reserve(wanted, now + self._keeping.lease, now - self._keeping.seconds)
        if isinstance(found, Reservation):
            self._at_work.append(found.resource)
        return found

    async def settle(self, held: Reservation, answer: Answer | None) -> None:
        """The request is over: keep its answer, or with None let it be tried again."""
        try:
            if answer is None:
                await self._repository.release(held)
            else:
                await self._repository.answer(held, answer)
        except Exception:  # noqa: BLE001 - the caller gets the answer all the same; the key is free when its lease has run out
            self._log.exception("an answer cannot be kept")
        finally:
            self._at_work.remove(held.resource)

    async def _speak(self) -> None:
        while not self._closing.is_set():
            try:
                now = self._clock.time()
                if self._at_work:
                    await self._repository.renew(self.owner, tuple(self._at_work), now + self._keeping.lease)
                await self._repository.forget(now - self._keeping.seconds, self._keeping.most, self._keeping.most_bytes)
            except Exception:  # noqa: BLE001 - a database that is away comes back
                self._log.exception("idempotency keys cannot be renewed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._keeping.lease / 3)
