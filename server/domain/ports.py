"""What the core needs from the outside, as protocols."""

from typing import Protocol, runtime_checkable

from server.domain.asset import Format
from server.domain.job import Job


class JobRepository(Protocol):
    """Remembers jobs."""

    async def save(self, job: Job) -> None:
        """Insert ``job``, or replace what is known under its id."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """The job, or None if it is not (or no longer) known."""
        ...


@runtime_checkable
class AssetStore(Protocol):
    """Keeps encoded images under names nobody can guess."""

    async def put(self, data: bytes, suffix: Format) -> str:
        """Store ``data`` and return its new name, which ends in ``.suffix``."""
        ...

    async def get(self, name: str) -> bytes | None:
        """The bytes stored under ``name``, or None."""
        ...


@runtime_checkable
class InputStore(Protocol):
    """Keeps pictures that callers upload once and name in later requests; each caller sees only its own."""

    async def put(self, tenant: str, data: bytes) -> str:
        """Store ``data`` and return its id, which is the same for the same bytes of the same tenant."""
        ...

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        """The bytes stored under ``asset_id``, or None; using them makes them young again."""
        ...

    async def delete(self, tenant: str, asset_id: str) -> bool:
        """Let go of them; False if there are none."""
        ...
