"""Lets go of results whose time is over or that are too many, and deletes the files that nobody has any more.

Any number of servers may do so over one database and one bucket: what is decided is decided in the database, and deleting a file
twice does no harm, since no path is used twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from server.domain.clock import Clock
from server.domain.failures import StorageFailure
from server.domain.ports import AssetRepository
from server.domain.retention import Keeping
from server.domain.stored import Blob, Holding
from server.storage.assets import PATH
from server.storage.bucket import Bucket

_AT_ONCE = 256
"""Rows of one transaction."""

_ROUNDS = 40
"""Of each kind in one run: about ten thousand assets; the next run goes on."""

_IN_A_ROW = 8
"""Files that cannot be deleted, one after the other: then the place is away, and a run ends; the next one begins behind them."""

_GRACE = 3600.0
"""Seconds after which a file that was being written is not waited for: far beyond what obstore tries for."""


class Collected(msgspec.Struct, frozen=True):
    """What one run has done."""

    assets: int = 0
    files: int = 0
    bytes: int = 0
    failed: int = 0
    """Files that could not be deleted; they are tried again."""


class Collector:
    """The owner of the task that collects; it lives inside `running`."""

    __slots__ = ("_behind", "_bucket", "_budget", "_clock", "_closing", "_every", "_keeping", "_log", "_news", "_repository")

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
    ) -> None:
        """``budget`` bounds the bytes of all results, ``keeping`` those of each tenant; a run begins ``every`` seconds."""
        self._repository, self._bucket, self._clock, self._log = repository, bucket, clock, log
        self._budget, self._keeping, self._every = budget, keeping, every
        self._news, self._closing = asyncio.Event(), asyncio.Event()
        self._behind: tuple[float, str] | None = None
        """The last blob that was tried, while there are more behind it."""

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
        assets = await self._rounds(lambda: self._repository.expire(self._clock.time(), _AT_ONCE))
        for holding in await self._repository.holdings():
            most = self._keeping(holding.tenant).bytes
            if most is not None and holding.bytes > most:
                assets += await self._rounds(self._trimming(most, holding.tenant))
        assets += await self._rounds(self._trimming(self._budget))
        await self._repository.give_up(self._clock.time() - _GRACE, _AT_ONCE)
        return replace(await self._sweep(), assets=assets)

    async def holdings(self) -> tuple[Holding, ...]:
        """What each tenant has stored."""
        return await self._repository.holdings()

    async def strays(self, *, delete: bool) -> Collected:
        """Files of our layout that no row knows, as after a database was restored from a copy; ``delete`` deletes them."""
        files = size = failed = 0
        async for page in self._bucket.listing():
            ours = {path: bytes_ for path, bytes_, _ in page if PATH.fullmatch(path)}
            # Rows come before files and go after them, so this order tells no living file from a stray one wrongly.
            known = await self._known(list(ours))
            for path in ours.keys() - known:
                if delete and not await self._deleted(path):
                    failed += 1
                    continue
                files, size = files + 1, size + ours[path]
        return Collected(0, files, size, failed)

    async def _sweep(self) -> Collected:
        """Delete the files of doomed blobs, from where the last run has stopped: none that stays keeps others waiting."""
        files = size = failed = in_a_row = 0
        for _ in range(_ROUNDS):
            doomed, gone = await self._repository.doomed(_AT_ONCE, self._behind), list[Blob]()
            for blob in doomed:
                self._behind = (blob.created, blob.id)
                if await self._deleted(blob.path):
                    gone.append(blob)
                    in_a_row = 0
                    continue
                failed, in_a_row = failed + 1, in_a_row + 1
                if in_a_row == _IN_A_ROW:
                    break
            await self._repository.forget(gone)
            files, size = files + len(gone), size + sum(blob.bytes for blob in gone)
            if in_a_row == _IN_A_ROW:
                break
            if len(doomed) < _AT_ONCE:
                self._behind = None
                break
            if self._closing.is_set():
                break
        return Collected(0, files, size, failed)

    async def _deleted(self, path: str) -> bool:
        """Whether the file is gone; the bucket has said in the log what is wrong if not."""
        try:
            await self._bucket.delete(path)
        except StorageFailure:
            return False
        return True

    async def _known(self, paths: list[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(paths), _AT_ONCE):
            found |= await self._repository.known(paths[start : start + _AT_ONCE])
        return found

    def _trimming(self, budget: int, tenant: str | None = None) -> Callable[[], Awaitable[int]]:
        return lambda: self._repository.trim(budget, _AT_ONCE, tenant=tenant)

    async def _rounds(self, step: Callable[[], Awaitable[int]]) -> int:
        total = 0
        for _ in range(_ROUNDS):
            count = await step()
            total += count
            if count < _AT_ONCE or self._closing.is_set():
                break
        return total

    async def _work(self) -> None:
        while not self._closing.is_set():
            self._news.clear()
            try:
                done = await self.collect()
                if done != Collected():
                    tell = self._log.warning if done.failed else self._log.info
                    tell("collected", assets=done.assets, files=done.files, bytes=done.bytes, failed=done.failed)
            except StorageFailure as error:
                self._log.warning("results cannot be collected", error=error.message)
            except Exception:  # noqa: BLE001 - a database that is away comes back
                self._log.exception("results cannot be collected")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._every)
