"""Finished images: equal bytes of one tenant stored once, each result under a name of its own that nobody can guess.

A blob's row is written before its file and deleted after it. So whatever dies in between, every file has a row, and the collector
finds what was never finished without looking through the store.
"""

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from server.domain.aside import aside
from server.domain.asset import Asset, Format
from server.domain.clock import Clock
from server.domain.failures import StorageFailure
from server.domain.ports.assets import AssetRepository
from server.domain.retention import Keeping
from server.domain.stored import Blob, New, Stored
from server.storage.bucket import Bucket

NAME = re.compile(rf"[A-Za-z0-9_-]{{32}}\.({'|'.join(Format)})")
"""24 random bytes and a suffix."""
PATH = re.compile(rf"[0-9a-f]{{16}}/\d{{4}}/\d\d/\d\d/[0-9a-f]{{32}}\.({'|'.join(Format)})")
"""Tenant, day and blob: what `path_of` makes."""
_TOKEN_BYTES = 24


class Assets:
    """The `AssetStore`: rows in a repository, bytes in a bucket."""

    __slots__ = ("_bucket", "_clock", "_deleted", "_keeping", "_log", "_public", "_repository", "_seconds")

    def __init__(
        self,
        repository: AssetRepository,
        bucket: Bucket,
        clock: Clock,
        log: FilteringBoundLogger,
        *,
        seconds: float,
        keeping: Callable[[str], Keeping] = lambda _tenant: Keeping(),
        public: bool = False,
        deleted: Callable[[], None] = lambda: None,
    ) -> None:
        """Results are kept for ``seconds`` unless ``keeping`` says otherwise of their tenant.

        ``public``: caches between the bucket and its readers may keep them too. ``deleted`` hears that there is something to
        collect.
        """
        self._repository, self._bucket, self._clock, self._log = repository, bucket, clock, log
        self._seconds, self._keeping, self._public, self._deleted = seconds, keeping, public, deleted

    async def put(self, data: bytes, new: New) -> Asset:
        """Store ``data`` for good, or raise `StorageFailure` and leave nothing behind."""
        form, tenant = new.format, new.tenant
        digest = await aside(len(data), lambda: hashlib.sha256(data).hexdigest())
        asset = Asset(_name(form), form, new.width, new.height, new.seed, len(data))
        now = self._clock.time()
        stored = Stored(asset, tenant, digest, new.job_id, now, now + self._kept(tenant), new.metadata)
        blank = self._repository.blank(tenant, digest, form) if new.awaited else None
        if blank is not None:
            blob = replace(blank, digest=digest, bytes=len(data))
        else:
            blob_id = secrets.token_hex(16)
            blob = Blob(blob_id, tenant, digest, path_of(tenant, now, blob_id, form), len(data), now)
            while (same := await self._repository.begin(blob, stored)) is not None:
                if await self._bucket.has(same.asset.path):
                    return same.asset
                await self._lost(same)
                # The first name is that of a lost asset until the collector comes.
                stored = replace(stored, asset=replace(asset, name=_name(form)))
        try:
            await self._bucket.put(blob.path, data, media_type=form.media_type, cache_control=self._cache_control(tenant))
        except StorageFailure:
            await self._abandon(blob)
            raise
        done = await self._repository.finish(blob, stored, soon=new.awaited)
        if done is None:
            await self._bucket.delete(blob.path)
            msg = "Storing the result took so long that it was given up; try again."
            raise StorageFailure(msg)
        return done.asset

    async def again(self, asset: Asset, tenant: str, job_id: str) -> Asset | None:
        """A new asset of ``tenant`` with the same content, without copying it; None if it is gone."""
        now = self._clock.time()
        new = Stored(
            asset=Asset(_name(asset.format), asset.format, asset.width, asset.height, asset.seed, asset.size),
            tenant=tenant,
            digest="",
            job_id=job_id,
            created=now,
            expires=now + self._kept(tenant),
            metadata=b"",
        )
        copied = await self._repository.copy(asset.name, new)
        return None if copied is None else copied.asset

    async def facts(self, name: str) -> Stored | None:
        """What is known of an asset; None for every name that this store has not given out, or not any more."""
        if NAME.fullmatch(name) is None:
            return None
        stored = await self._repository.get(name)
        return None if stored is None or stored.expires <= self._clock.time() else stored

    async def get(self, name: str) -> bytes | None:
        """All bytes of an asset, or None."""
        stored = await self.facts(name)
        if stored is None:
            return None
        data = await self._bucket.get(stored.asset.path)
        if data is None:
            await self._lost(stored)
        return data

    async def open(self, stored: Stored, start: int, stop: int) -> AsyncIterator[bytes] | None:
        """Its bytes from ``start`` to before ``stop``, piece by piece; None if they are gone."""
        pieces = await self._bucket.open(stored.asset.path, start, stop)
        if pieces is None:
            await self._lost(stored)
        return pieces

    async def delete(self, tenant: str, names: Iterable[str]) -> int:
        """Let go of those that are ``tenant``'s; how many there were. Bytes that nobody has then go in a moment."""
        count = await self._repository.delete(tenant, names)
        if count:
            self._deleted()
        return count

    async def discard(self, tenant: str, job_id: str) -> int:
        """Let go of all that a job of ``tenant`` has made, also of what it does not know itself; how many there were."""
        count = await self._repository.discard(tenant, job_id)
        if count:
            self._deleted()
        return count

    async def signed(self, asset: Asset, seconds: float) -> str | None:
        """A URL in the bucket itself that anybody can read it by for so long; None if it has none.

        Whatever link is given out leads somewhere from then on: its row is written.
        """
        await self._repository.written(asset.name)
        return await self._bucket.signed(asset.path, seconds) if asset.path else None

    async def _lost(self, stored: Stored) -> None:
        """Somebody else has deleted the file. It is forgotten, so that equal bytes are written again and not taken for there."""
        if await self._repository.get(stored.asset.name) is None:
            return  # our own collector has
        self._log.warning("a stored file is gone", path=stored.asset.path)
        await self._repository.lost(stored.asset.path)

    async def _abandon(self, blob: Blob) -> None:
        """A full disk may hold a full database: then the collector finds the row by its age."""
        try:
            await self._repository.abandon(blob)
        except StorageFailure:
            self._log.warning("a blob that could not be written waits for the collector", path=blob.path)

    def _kept(self, tenant: str) -> float:
        hours = self._keeping(tenant).hours
        return self._seconds if hours is None else hours * 3600

    def _cache_control(self, tenant: str) -> str:
        return f"{'public' if self._public else 'private'}, max-age={int(self._kept(tenant))}, immutable"


def path_of(tenant: str, now: float, blob_id: str, form: Format) -> str:
    """Where a blob lies: by tenant, whose name is hashed and never becomes a path, and by day."""
    owner = hashlib.sha256(tenant.encode()).hexdigest()[:16]
    return f"{owner}/{datetime.fromtimestamp(now, tz=UTC):%Y/%m/%d}/{blob_id}.{form.value}"


def _name(form: Format) -> str:
    return f"{secrets.token_urlsafe(_TOKEN_BYTES)}.{form.value}"
