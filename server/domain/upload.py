"""What is known of an upload that lies in a bucket, beside its bytes, and who remembers it."""

from collections.abc import Iterable
from typing import Protocol

import msgspec


class Upload(msgspec.Struct, frozen=True):
    """One file of a tenant, as it was sent. Its row has a `server.domain.stored.BlobState`, and lives as a blob's does."""

    path: str
    """Never used twice, not even for the same bytes."""
    tenant: str
    id: str
    """What the tenant knows it by; the same for the same bytes."""
    bytes: int
    created: float
    """Unix time."""
    used: float
    """Unix time of the last use that was written down."""


class UploadRepository(Protocol):
    """The rows of uploads; every change has happened, for good, once the call returns. Several servers may work on them."""

    async def begin(self, upload: Upload) -> str | None:
        """The path of the tenant's file with the same id, which was used now; None if there is none.

        Then it is noted that the file of ``upload`` is about to be written.
        """
        ...

    async def finish(self, upload: Upload) -> str | None:
        """Its file is whole: the path that the id leads to from now on, that of somebody who was quicker if it is not its own.

        None if it leads nowhere: it was given up, or the other went at this moment. What nothing leads to is doomed.
        """
        ...

    async def doom(self, path: str) -> None:
        """That file will not be written, or is not there any more: nobody is shown it from then on."""
        ...

    async def get(self, tenant: str, upload_id: str) -> Upload | None:
        """The upload of ``tenant`` with that id, however old."""
        ...

    async def touch(self, path: str, now: float, before: float) -> None:
        """That file is used at Unix time ``now``; nothing is written if the last use is not ``before``."""
        ...

    async def delete(self, tenant: str, upload_id: str) -> bool:
        """Doom it; False if there is none."""
        ...

    async def trim(self, tenant: str, most_bytes: int, most_files: int, most: int) -> int:
        """Doom up to ``most`` of those that ``tenant`` has not used for longest, until the rest is in bounds; how many."""
        ...

    async def expire(self, unused_since: float, begun_before: float, most: int) -> int:
        """Doom up to ``most`` that were not used since, or whose writing began before that time and never ended; how many."""
        ...

    async def doomed(self, most: int, after: str = "") -> tuple[Upload, ...]:
        """Those whose file is to be deleted, in the order of their paths, from the one after the path ``after`` on."""
        ...

    async def forget(self, paths: Iterable[str]) -> None:
        """Those files are gone."""
        ...

    async def known(self, paths: Iterable[str]) -> frozenset[str]:
        """Which of these are an upload's."""
        ...
