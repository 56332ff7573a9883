"""Uploads in the bucket of the results, known to every server that shares it and the database.

A file's row is written before it and deleted after it, and no path is used twice, as with results: whatever dies in between,
every file has a row, and what was never finished or is to be deleted is found by it without looking through the bucket. Two
servers that put the same bytes at once write two files; the id leads to the first that is whole, and the other goes.
"""

import contextlib
import hashlib
import re
import secrets
import sys
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from pipelines.contract.errors import TooLarge
from server.domain.aside import aside
from server.domain.clock import Clock
from server.domain.failures import StorageFailure, StorageFull
from server.domain.upload import Upload, UploadRepository
from server.storage.bucket import Bucket
from server.storage.files import Retention
from server.storage.inputs import ID, id_of
from server.storage.kinds import media_type
from server.storage.sweeping import AT_ONCE, GRACE, Collected, Sweeper, rounds

PATH = re.compile(rf"uploads/[0-9a-f]{{32}}/{ID.pattern}/[0-9a-f]{{32}}")
"""Tenant, id, and what nobody can guess, as with results: what `path_of` makes."""
_NOTED = 300.0
_NOTED_PART = 0.1
"""Uses are written down once in so many seconds, and once in that part of the time that an upload is kept unused."""
_MEETINGS = 3


class SharedInputs:
    """An `InputStore`: rows in a repository, bytes in a bucket. The bounds hold for each tenant."""

    __slots__ = ("_bucket", "_clock", "_deleted", "_noted", "_repository", "_retention")

    def __init__(
        self,
        repository: UploadRepository,
        bucket: Bucket,
        retention: Retention,
        clock: Clock,
        *,
        deleted: Callable[[], None] = lambda: None,
    ) -> None:
        """``deleted`` hears that there are files to delete."""
        self._repository, self._bucket, self._retention, self._clock = repository, bucket, retention, clock
        self._deleted = deleted
        self._noted = min(_NOTED, retention.seconds * _NOTED_PART)

    async def put(self, tenant: str, data: bytes) -> str:
        """Store ``data``, and let go of what is then too much; `TooLarge` if it is so by itself, or `StorageFailure`."""
        if len(data) > self._retention.bytes:
            msg = f"The file has {len(data)} bytes; uploads of one caller may have {self._retention.bytes} together."
            raise TooLarge(msg, param="file")
        asset_id = await aside(len(data), lambda: id_of(tenant, data))
        for _ in range(_MEETINGS):
            if await self._stored(tenant, asset_id, data):
                break
        else:
            msg = "Others let go of the upload again and again while it was stored; try again."
            raise StorageFailure(msg)
        await self._trim(tenant)
        return asset_id

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        """The bytes, which are young again; None for every id that this tenant has not been given, or not any more."""
        found = await self._repository.get(tenant, asset_id) if ID.fullmatch(asset_id) else None
        now = self._clock.time()
        if found is None or found.used < now - self._retention.seconds:
            return None
        if found.used < now - self._noted:
            # A full database keeps nobody from reading.
            with contextlib.suppress(StorageFull):
                await self._repository.touch(found.path, now, now - self._noted)
        data = await self._bucket.get(found.path)
        if data is None:
            await self._lost(found.path)
        return data

    async def delete(self, tenant: str, asset_id: str) -> bool:
        """Let go of them; False if there are none."""
        gone = await self._repository.delete(tenant, asset_id) if ID.fullmatch(asset_id) else False
        if gone:
            self._deleted()
        return gone

    async def _stored(self, tenant: str, asset_id: str, data: bytes) -> bool:
        """Whether the id leads to a file with ``data`` now; if not it has to be tried again."""
        now = self._clock.time()
        upload = Upload(path_of(tenant, asset_id), tenant, asset_id, len(data), now, now)
        there = await self._repository.begin(upload)
        if there is not None:
            if await self._bucket.has(there):
                return True
            await self._lost(there)
            return False
        try:
            kind = media_type(data) or "application/octet-stream"
            await self._bucket.put(upload.path, data, media_type=kind, cache_control="private, no-store")
        except StorageFailure:
            await self._lost(upload.path)
            raise
        leads = await self._repository.finish(replace(upload, used=self._clock.time()))
        if leads != upload.path:
            # If it cannot be deleted at once its row is doomed, unless it took so long that this was given up.
            with contextlib.suppress(StorageFailure):
                await self._bucket.delete(upload.path)
            self._deleted()
        return leads is not None

    async def _lost(self, path: str) -> None:
        """A full disk may hold a full database: then the row goes by its age, or is noticed again."""
        with contextlib.suppress(StorageFull):
            await self._repository.doom(path)
        self._deleted()

    async def _trim(self, tenant: str) -> None:
        kept = self._retention
        files = sys.maxsize if kept.files is None else kept.files
        if await rounds(lambda: self._repository.trim(tenant, kept.bytes, files, AT_ONCE), lambda: False):
            self._deleted()


class UploadShelf:
    """What the collector does about uploads: lets go of those that are unused, or were never finished, and deletes files."""

    __slots__ = ("_clock", "_repository", "_seconds", "_sweeper")

    paths = PATH

    def __init__(self, repository: UploadRepository, bucket: Bucket, clock: Clock, *, seconds: float) -> None:
        """``seconds``: how long they are kept after their last use."""
        self._repository, self._clock, self._seconds = repository, clock, seconds
        self._sweeper: Sweeper[Upload] = Sweeper(
            bucket,
            lambda most, after: repository.doomed(most, "" if after is None else after.path),
            lambda gone: repository.forget([upload.path for upload in gone]),
        )

    async def collect(self, closing: Callable[[], bool]) -> Collected:
        """One run, bounded; it ends early when ``closing``."""
        now = self._clock.time()
        gone = await rounds(lambda: self._repository.expire(now - self._seconds, now - GRACE, AT_ONCE), closing)
        return Collected(uploads=gone) + await self._sweeper.sweep(closing)

    async def known(self, paths: Iterable[str]) -> frozenset[str]:
        """Which of these are an upload's."""
        return await self._repository.known(paths)


def path_of(tenant: str, asset_id: str) -> str:
    """A new path for bytes of ``tenant`` with that id."""
    return f"uploads/{hashlib.sha256(tenant.encode()).hexdigest()[:32]}/{asset_id}/{secrets.token_hex(16)}"
