"""Files under paths in a place that obstore reaches, in words of asyncio and of our error tree.

obstore's own coroutines are not used: they come back from threads of Rust, and one that comes back while Python ends takes the
process down with an abort.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from server.domain.failures import StorageFailure, StorageFull
from server.storage.places import Place

T = TypeVar("T")

_PIECE = 256 * 1024
"""Bytes that are read at a time, at least: many readers of large files hold that much each."""

_THREADS = 16
_SIGNING_THREADS = 4
"""Of their own: links are wanted within seconds, and a place that is slow to take files holds up the others for minutes."""

_RETRY_SECONDS = 60.0
_FULL = ("os error 28", "os error 122", "No space left", "507 ", "XMinioStorageFull", "QuotaExceeded", "InsufficientStorage")
"""How file systems (ENOSPC, EDQUOT) and servers say that there is no room."""


class Bucket:
    """One place. Raises `StorageFull` where there is no room, `StorageFailure` where it does not do what it should."""

    __slots__ = ("_log", "_place", "_pool", "_signing", "_store")

    def __init__(self, place: Place, log: FilteringBoundLogger) -> None:
        self._place, self._log = place, log
        self._store: Any = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")
        self._signing = ThreadPoolExecutor(_SIGNING_THREADS, thread_name_prefix="signing")

    @property
    def remote(self) -> bool:
        """Whether others can fetch from it by themselves, if they are given a signed URL."""
        return self._place.remote

    async def check(self) -> None:
        """Connect, and see that the place is there and lets us in; raises `StorageFailure` if not."""
        await self._do(lambda store: next(iter(store.list()), None))

    async def put(self, path: str, data: bytes, *, media_type: str, cache_control: str) -> None:
        """Write a file, whole or not at all."""
        more: dict[str, Any] = {}
        if self.remote:
            more["attributes"] = {"Content-Type": media_type, "Cache-Control": cache_control}
        # In one piece: parts that nobody completes are kept, and paid for, where nobody sees them.
        await self._do(lambda store: store.put(path, data, use_multipart=False, **more))

    async def get(self, path: str) -> bytes | None:
        """A whole file; None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            return await self._do(lambda store: bytes(store.get(path).bytes()))
        return None

    async def has(self, path: str) -> bool:
        """Whether there is such a file."""
        with contextlib.suppress(FileNotFoundError):
            await self._do(lambda store: store.head(path))
            return True
        return False

    async def open(self, path: str, start: int, stop: int) -> AsyncIterator[bytes] | None:
        """The bytes of a file from ``start`` to before ``stop``, in pieces; None if there is no such file."""
        try:
            found = await self._do(lambda store: store.get(path, options={"range": (start, stop)}))
        except FileNotFoundError:
            return None
        return self._pieces(iter(found.stream(min_chunk_size=_PIECE)))

    async def delete(self, path: str) -> None:
        """Delete a file, and what an interrupted writing of it has left; it does not matter if there is nothing."""
        with contextlib.suppress(FileNotFoundError):
            await self._do(lambda store: self._delete(store, path))

    async def signed(self, path: str, seconds: float) -> str | None:
        """A URL in the place itself that opens the file for so long; None if it has none."""
        if not self.remote:
            return None
        from obstore import sign  # noqa: PLC0415

        def work(store: Any) -> str:
            return str(sign(store, "GET", path, timedelta(seconds=seconds)))

        return await asyncio.get_running_loop().run_in_executor(self._signing, self._work, work)

    async def listing(self) -> AsyncIterator[list[tuple[str, int, datetime]]]:
        """Pages of all files: path, bytes, time of writing."""
        pages = await self._do(lambda store: iter(store.list()))
        while (page := await self._do(lambda _store: next(pages, None))) is not None:
            yield [(each["path"], each["size"], each["last_modified"]) for each in page]

    def close(self) -> None:
        """End the threads once they are done."""
        for pool in (self._pool, self._signing):
            pool.shutdown(wait=False)

    async def _pieces(self, stream: Any) -> AsyncIterator[bytes]:
        while (piece := await self._do(lambda _store: next(stream, None))) is not None:
            yield bytes(piece)

    async def _do(self, work: Callable[[Any], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._work, work)

    def _work(self, work: Callable[[Any], T]) -> T:
        from obstore.exceptions import BaseError  # noqa: PLC0415

        try:
            if self._store is None:
                self._store = self._place.make()
            return work(self._store)
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            said = str(error)
            # Addresses and paths in it are the operator's to know.
            self._log.warning("storage", error=said.partition("\n")[0])
            if any(word in said for word in _FULL):
                msg = "There is no room left for results; try again later."
                raise StorageFull(msg, retry_after=_RETRY_SECONDS) from error
            msg = "The place where results are stored does not answer as it should; try again later."
            raise StorageFailure(msg, retry_after=_RETRY_SECONDS) from error

    def _delete(self, store: Any, path: str) -> None:
        if self._place.folder is not None:
            # What obstore writes to before the file has its name; it does not list it, and nobody else deletes it.
            (self._place.folder / f"{path}#1").unlink(missing_ok=True)
        store.delete(path)
