"""Rows of files that are whole, written a moment later and many at a time: nobody waits for them who has the bytes already.

For a database that only this process uses: what is not written yet is known here alone. Each file has the row that was there
before it, so that one whose process died in between is collected as any that was never finished.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from server.domain.asset import Format
from server.domain.clock import Clock
from server.domain.ports.assets import AssetRepository
from server.domain.stored import Blob, Holding, Stored
from server.storage.blanks import Blanks, Reserving

LINGER_SECONDS = 0.2
"""Rows gather for so long."""
PAUSE_SECONDS = 1.0
"""Between attempts, while the database takes nothing."""
MOST = 1024
"""Rows that wait; beyond it everybody waits for his own."""
_AT_ONCE = 128


class Rows(AssetRepository, Reserving, Protocol):
    """A repository that can end many writings at a time."""

    async def finish_all(self, whole: Sequence[tuple[Blob, Stored]]) -> bool:
        """`finish` for each of ``whole`` in one transaction; False: nothing is done, as one of them has to be seen to alone."""
        ...


class WriteBehind:
    """An `AssetRepository` that owns the rows which are yet to be written."""

    __slots__ = ("_blanks", "_closing", "_contents", "_log", "_rows", "_waiting", "_work", "_writing")

    def __init__(self, rows: Rows, clock: Clock, log: FilteringBoundLogger) -> None:
        self._rows, self._log = rows, log
        self._blanks = Blanks(rows, clock)
        self._waiting: dict[str, tuple[Blob, Stored]] = {}
        """By the asset's name."""
        self._contents: set[tuple[str, str]] = set()
        """Tenant and digest of those."""
        self._writing = asyncio.Lock()
        self._closing = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["WriteBehind"]:
        """At the end of the block all is written, or cannot be; from then on everybody waits for his own."""
        try:
            yield self
        finally:
            self._closing.set()
            if self._work is not None:
                await self._work
            try:
                await self._blanks.clear()
            except Exception:  # noqa: BLE001 - then they are given up an hour later
                self._log.exception("rows that were set aside cannot be taken back")

    async def settle(self) -> None:
        """Return once all that has come before is written; raises what the database says."""
        if self._waiting:
            # Who leaves meanwhile does not leave in doubt what is written.
            await asyncio.shield(asyncio.create_task(self._settle()))

    async def fill(self) -> None:
        """Have rows at hand where some were asked for."""
        await self._blanks.fill()

    async def begin(self, blob: Blob, stored: Stored) -> Stored | None:
        """The repository's, with all of the same content that is known here."""
        if (blob.tenant, blob.digest) in self._contents:
            await self.settle()
        return await self._rows.begin(blob, stored)

    def blank(self, tenant: str, digest: str, form: Format) -> Blob | None:
        """One that was written before, if there is any, and unless the same content came a moment ago."""
        return self._blanks.take(tenant, digest, form)

    async def finish(self, blob: Blob, stored: Stored, *, soon: bool = False) -> Stored | None:
        """The repository's; ``soon``: a moment later, unless too much waits already, or the same content."""
        content = (blob.tenant, blob.digest)
        if not soon or len(self._waiting) >= MOST or content in self._contents or self._closing.is_set():
            return await self._rows.finish(blob, stored)
        known = replace(stored, asset=replace(stored.asset, path=blob.path))
        self._waiting[known.asset.name] = (blob, known)
        self._contents.add(content)
        if self._work is None or self._work.done():
            # Of nobody's request: what is logged there must not bear the name of whoever came first.
            self._work = asyncio.create_task(self._write(), name="write behind", context=contextvars.Context())
        return known

    async def written(self, name: str) -> None:
        """Return once the asset of that name is written, if there is one."""
        if name in self._waiting:
            await self.settle()

    async def abandon(self, blob: Blob) -> None:
        """The repository's."""
        await self._rows.abandon(blob)

    async def lost(self, path: str) -> None:
        """The repository's, with all that is known here."""
        await self.settle()
        await self._rows.lost(path)

    async def get(self, name: str) -> Stored | None:
        """The asset of that name, written or not."""
        waiting = self._waiting.get(name)
        return await self._rows.get(name) if waiting is None else waiting[1]

    async def copy(self, source: str, stored: Stored) -> Stored | None:
        """The repository's, with all that is known here."""
        await self.written(source)
        return await self._rows.copy(source, stored)

    async def delete(self, tenant: str, names: Iterable[str]) -> int:
        """The repository's, with all that is known here."""
        await self.settle()
        return await self._rows.delete(tenant, names)

    async def discard(self, tenant: str, job_id: str) -> int:
        """The repository's, with all that is known here."""
        await self.settle()
        return await self._rows.discard(tenant, job_id)

    async def expire(self, now: float, most: int) -> int:
        """The repository's, with all that is known here."""
        await self.settle()
        return await self._rows.expire(now, most)

    async def trim(self, budget: int, most: int, *, tenant: str | None = None) -> int:
        """The repository's."""
        return await self._rows.trim(budget, most, tenant=tenant)

    async def give_up(self, before: float, most: int) -> int:
        """The repository's, with all that is known here."""
        await self.settle()
        return await self._rows.give_up(before, most)

    async def doomed(self, most: int, after: tuple[float, str] | None = None) -> tuple[Blob, ...]:
        """The repository's."""
        return await self._rows.doomed(most, after)

    async def forget(self, blobs: Iterable[Blob]) -> None:
        """The repository's."""
        await self._rows.forget(blobs)

    async def known(self, paths: Iterable[str]) -> frozenset[str]:
        """The repository's: what is written here has a row."""
        return await self._rows.known(paths)

    async def holdings(self) -> tuple[Holding, ...]:
        """The repository's, with all that is known here."""
        await self.settle()
        return await self._rows.holdings()

    async def _settle(self) -> None:
        async with self._writing:
            before = list(self._waiting.values())
            for start in range(0, len(before), _AT_ONCE):
                batch = before[start : start + _AT_ONCE]
                together = await self._rows.finish_all(batch)
                for blob, stored in batch:
                    if not together and await self._rows.finish(blob, stored) is None:
                        self._log.error("a result was given up before its row could be written", asset=stored.asset.name)
                    del self._waiting[stored.asset.name]
                    self._contents.discard((blob.tenant, blob.digest))

    async def _write(self) -> None:
        pause = LINGER_SECONDS
        while self._waiting:
            closing = self._closing.is_set()
            if not closing:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)
            try:
                await self.settle()
                if not closing:
                    await self.fill()
                pause = LINGER_SECONDS
            except Exception:  # noqa: BLE001 - a database that is away comes back
                self._log.exception("rows of results cannot be written")
                pause = PAUSE_SECONDS
                if closing:
                    break
