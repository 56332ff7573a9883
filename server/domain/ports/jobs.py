"""Jobs that are remembered, as the core needs them from a database."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from server.domain.job import Job, JobState
from server.domain.transitions import Happening


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs of one tenant."""

    tenant: str
    states: tuple[JobState, ...] = ()
    """Any of these; empty for all."""
    model: str | None = None
    since: float | None = None
    """Created at this Unix time or later."""
    until: float | None = None
    """Created before."""
    batch: str | None = None
    """Lines of that batch."""


class JobPage(msgspec.Struct, frozen=True):
    """Some jobs, the newest first."""

    jobs: tuple[Job, ...]
    more: bool
    """Whether there are older ones."""


class Ahead(msgspec.Struct, frozen=True):
    """What is queued before a job."""

    jobs: int
    work: int
    """Pixel-steps."""


class JobRepository(Protocol):
    """Remembers jobs; every change has happened, for good, once the call returns."""

    async def add(self, job: Job) -> None:
        """Insert ``job``; its input pictures with it if it is durable."""
        ...

    async def record(self, jobs: Sequence[Job]) -> None:
        """Write ``jobs``, none of them durable, as they stand, all or none; one that is over there already is left as it is."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """The job without its input pictures, or None if it is not (or no longer) known."""
        ...

    async def happen(self, job_id: str, happening: Happening, *, owner: str | None = None) -> Job | None:
        """The job after ``happening``; None if there is no such job, or ``owner`` is not its owner (any more).

        Raises `IllegalTransition`.
        """
        ...

    async def claim(self, owner: str, lease: float, images: int, bulk: int | None = None) -> tuple[Job, ...]:
        """Take queued jobs for ``owner`` until ``lease``: the most urgent, and of those by turns of the tenants; whole orders.

        As many as make up to ``images`` images, one at least. Bulk ones fill what the others leave of ``bulk`` images, of
        ``images`` if it is None. Several servers may do this at the same time: none gets what another has.
        """
        ...

    async def renew(self, owner: str, ids: Iterable[str], lease: float) -> Mapping[str, bool]:
        """Hold on to those jobs until ``lease``: which of them are ``owner``'s, and of each whether it shall be cancelled."""
        ...

    async def sweep(self, *, everybody: bool = False) -> tuple[Job, ...]:
        """Drop the jobs whose owner has not been heard of, and end those whose deadline passed in the queue; what changed.

        ``everybody``: whoever owned anything is known to be dead.
        """
        ...

    async def ahead(self, job: Job) -> Ahead:
        """What is queued before ``job``."""
        ...

    async def queued_images(self) -> int:
        """Images of all queued jobs together, but for those of batches: they stand behind all others."""
        ...

    async def page(self, wanted: JobFilter, after: tuple[float, str] | None, most: int) -> JobPage:
        """The newest ``most`` jobs that ``wanted`` describes, from the one after ``after`` (creation time and id) on."""
        ...

    async def delete(self, job_id: str) -> bool:
        """Forget a job that is over; False if it is not, or not known."""
        ...

    async def forget(self, finished_before: float) -> tuple[Job, ...]:
        """Delete jobs that were over before that Unix time, some at once, and messages that were settled before; the jobs."""
        ...
