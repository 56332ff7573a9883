"""Lets go of results whose time is over or that are too many, and deletes the files that nobody has any more.

Any number of servers may do so over one database and one bucket: what is decided is decided in the database, and deleting a file
twice does no harm, since no path is used twice.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
from structlog.typing import FilteringBoundLogger

from server.domain.clock import Clock
from server.domain.failures import StorageFailure
from server.domain.ports.assets import AssetRepository
from server.domain.retention import Keeping
from server.domain.stored import Blob, Holding
from server.storage.assets import PATH
from server.storage.bucket import Bucket
from server.storage.sweeping import AT_ONCE, GRACE, Collected, Sweeper, deleted, rounds


class Shelf(Protocol):
    """Files of another kind in the same bucket."""

    @property
    def paths(self) -> re.Pattern[str]:
        """What the path of such a file looks like, and no other's."""
        ...

    async def collect(self, closing: Callable[[], bool]) -> Collected:
        """One run, bounded; it ends early when ``closing``."""
        ...

    async def known(self, paths: Iterable[str]) -> frozenset[str]:
        """Which of these have a row."""
        ...


class Collector:
    """The owner of the task that collects; it lives inside `running`."""

    __slots__ = (
        "_bucket",
        "_budget",
        "_clock",
        "_closing",
        "_every",
        "_keeping",
        "_log",
        "_news",
        "_repository",
        "_shelves",
        "_sweeper",
    )

    def __init__(
        self,
        repository: AssetRepository,
        bucket: Bucket,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        budget: int,
        keeping: Callable[[str], Keeping] = lambda _tenant: Keeping(),
        every: float = 60.0,
        shelves: Sequence[Shelf] = (),
    ) -> None:
        """``budget`` bounds the bytes of all results, ``keeping`` those of each tenant; a run begins ``every`` seconds.

        ``shelves``: what else is collected in the same rounds.
        """
        self._repository, self._bucket, self._clock, self._log = repository, bucket, clock, log
        self._budget, self._keeping, self._every = budget, keeping, every
        self._news, self._closing = asyncio.Event(), asyncio.Event()
        self._shelves = shelves
        self._sweeper: Sweeper[Blob] = Sweeper(bucket, self._doomed, repository.forget)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Collector"]:
        """Inside the block it collects; a run under way at its end is finished."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(), name="collect results")
            try:
                yield self
            finally:
                self._closing.set()
                self._news.set()

    def look(self) -> None:
        """There is something to collect."""
        self._news.set()

    async def collect(self) -> Collected:
        """One run: bounded, so that others get their turn at the database."""
        assets = await self._rounds(lambda: self._repository.expire(self._clock.time(), AT_ONCE))
        for holding in await self._repository.holdings():
            most = self._keeping(holding.tenant).bytes
            if most is not None and holding.bytes > most:
                assets += await self._rounds(self._trimming(most, holding.tenant))
        assets += await self._rounds(self._trimming(self._budget))
        await self._repository.give_up(self._clock.time() - GRACE, AT_ONCE)
        done = Collected(assets=assets) + await self._sweeper.sweep(self._closing.is_set)
        for shelf in self._shelves:
            done += await shelf.collect(self._closing.is_set)
        return done

    async def holdings(self) -> tuple[Holding, ...]:
        """What each tenant has stored."""
        return await self._repository.holdings()

    async def strays(self, *, delete: bool) -> Collected:
        """Files of our layout that no row knows, as after a database was restored from a copy; ``delete`` deletes them."""
        files = size = failed = 0
        kinds = [(PATH, self._repository.known), *((shelf.paths, shelf.known) for shelf in self._shelves)]
        async for page in self._bucket.listing():
            for pattern, known in kinds:
                ours = {path: bytes_ for path, bytes_, _ in page if pattern.fullmatch(path)}
                # Rows come before files and go after them, so this order tells no living file from a stray one wrongly.
                for path in ours.keys() - await _of(known, list(ours)):
                    if delete and not await deleted(self._bucket, path):
                        failed += 1
                        continue
                    files, size = files + 1, size + ours[path]
        return Collected(files=files, bytes=size, failed=failed)

    async def _doomed(self, most: int, after: Blob | None) -> tuple[Blob, ...]:
        return await self._repository.doomed(most, None if after is None else (after.created, after.id))

    def _trimming(self, budget: int, tenant: str | None = None) -> Callable[[], Awaitable[int]]:
        return lambda: self._repository.trim(budget, AT_ONCE, tenant=tenant)

    async def _rounds(self, step: Callable[[], Awaitable[int]]) -> int:
        return await rounds(step, self._closing.is_set)

    async def _work(self) -> None:
        while not self._closing.is_set():
            self._news.clear()
            try:
                done = await self.collect()
                if done != Collected():
                    tell = self._log.warning if done.failed else self._log.info
                    tell("collected", **msgspec.structs.asdict(done))
            except StorageFailure as error:
                self._log.warning("results cannot be collected", error=error.message)
            except Exception:  # noqa: BLE001 - a database that is away comes back
                self._log.exception("results cannot be collected")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._every)


async def _of(known: Callable[[Iterable[str]], Awaitable[frozenset[str]]], paths: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(paths), AT_ONCE):
        found |= await known(paths[start : start + AT_ONCE])
    return found
