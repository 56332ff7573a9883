"""Where results are kept: their bytes, and the rows that know of them."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol, runtime_checkable

from server.domain.asset import Asset, Format
from server.domain.stored import Blob, Holding, New, Stored


@runtime_checkable
class AssetStore(Protocol):
    """Keeps encoded images under names nobody can guess; equal bytes of one tenant once. Raises `StorageFailure`."""

    async def put(self, data: bytes, new: New) -> Asset:
        """Store ``data`` for good; its name ends in the format's suffix."""
        ...

    async def again(self, asset: Asset, tenant: str, job_id: str) -> Asset | None:
        """A new asset of ``tenant`` with the same content, without copying it; None if it is gone."""
        ...

    async def facts(self, name: str) -> Stored | None:
        """What is known of an asset; None for every name that this store has not given out, or not any more."""
        ...

    async def get(self, name: str) -> bytes | None:
        """All bytes of an asset, or None."""
        ...

    async def open(self, stored: Stored, start: int, stop: int) -> AsyncIterator[bytes] | None:
        """Its bytes from ``start`` to before ``stop``, piece by piece; None if they are gone."""
        ...

    async def delete(self, tenant: str, names: Iterable[str]) -> int:
        """Let go of those that are ``tenant``'s; how many there were."""
        ...

    async def discard(self, tenant: str, job_id: str) -> int:
        """Let go of all that a job of ``tenant`` has made; how many there were."""
        ...

    async def signed(self, asset: Asset, seconds: float) -> str | None:
        """A URL in the store itself that anybody can read it by for so long; None if this store has no URLs."""
        ...


class AssetRepository(Protocol):
    """The rows of assets and blobs; every change has happened, for good, once the call returns.

    Several servers may work on them at the same time: a blob that an asset has is never doomed.
    """

    async def begin(self, blob: Blob, stored: Stored) -> Stored | None:
        """Add an asset to its tenant's blob of the same digest: what was added, with its path.

        None if there is no such blob: then it is noted that the file of ``blob`` is about to be written.
        """
        ...

    def blank(self, tenant: str, digest: str, form: Format) -> Blob | None:
        """One for a file of ``tenant`` with that digest, of which `begin` has been noted already; None if there is none at hand.

        Whether others have the same content is seen when it is finished.
        """
        ...

    async def finish(self, blob: Blob, stored: Stored, *, soon: bool = False) -> Stored | None:
        """Its file is whole: add its first asset, and return it with its path; None if it was given up: then its file must go.

        If somebody was quicker with the same bytes, that blob gets the asset and this one is doomed. ``soon``: it is known at
        once, and may be written a moment later.
        """
        ...

    async def written(self, name: str) -> None:
        """The asset of that name, if there is one, has happened for good: also if it was only to be written soon."""
        ...

    async def abandon(self, blob: Blob) -> None:
        """Its file will not be written."""
        ...

    async def lost(self, path: str) -> None:
        """There is no file any more where a blob's should be: doom it; nobody knows the assets that have it from then on."""
        ...

    async def get(self, name: str) -> Stored | None:
        """The asset of that name, expired or not."""
        ...

    async def copy(self, source: str, stored: Stored) -> Stored | None:
        """Add an asset with the content of the asset ``source``; None if that is gone, or expired when ``stored`` was created.

        Name, tenant, job and times are those of ``stored``, the rest is the source's.
        """
        ...

    async def delete(self, tenant: str, names: Iterable[str]) -> int:
        """Forget those of ``tenant``, and doom the blobs that nobody has then."""
        ...

    async def discard(self, tenant: str, job_id: str) -> int:
        """The same for all that a job of ``tenant`` has made; how many."""
        ...

    async def expire(self, now: float, most: int) -> int:
        """The same for up to ``most`` assets whose time is over; how many."""
        ...

    async def trim(self, budget: int, most: int, *, tenant: str | None = None) -> int:
        """The same for up to ``most`` of the oldest, until all (or those of ``tenant``) are within ``budget`` bytes."""
        ...

    async def give_up(self, before: float, most: int) -> int:
        """Doom up to ``most`` blobs whose writing began before that Unix time and never ended; how many."""
        ...

    async def doomed(self, most: int, after: tuple[float, str] | None = None) -> tuple[Blob, ...]:
        """Blobs whose file is to be deleted, the oldest first, from the one after ``after`` (creation time and id) on."""
        ...

    async def forget(self, blobs: Iterable[Blob]) -> None:
        """Their files are gone."""
        ...

    async def known(self, paths: Iterable[str]) -> frozenset[str]:
        """Which of these are a blob's."""
        ...

    async def holdings(self) -> tuple[Holding, ...]:
        """What each tenant has stored."""
        ...
