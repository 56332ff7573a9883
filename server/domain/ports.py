"""What the core needs from the outside, as protocols."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from server.domain.asset import Asset, Format
from server.domain.caching import Kept
from server.domain.job import Job, JobState
from server.domain.key import Key
from server.domain.transitions import Happening
from server.domain.webhook import Delivery


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


class Trimmed(msgspec.Struct, frozen=True):
    """A cache after some of it was forgotten."""

    gone: tuple[str, ...]
    """Exact keys."""
    bytes: int
    """Of what is left."""
    entries: int


class JobRepository(Protocol):
    """Remembers jobs; every change has happened, for good, once the call returns."""

    async def add(self, job: Job) -> None:
        """Insert ``job``; its input pictures with it if it is durable."""
        ...

    async def record(self, jobs: Sequence[Job]) -> None:
        """Insert ``jobs``, which were over before anybody wrote them down, all or none."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """The job without its input pictures, or None if it is not (or no longer) known."""
        ...

    async def happen(self, job_id: str, happening: Happening, *, owner: str | None = None) -> Job | None:
        """The job after ``happening``; None if there is no such job, or ``owner`` is not its owner (any more).

        Raises `IllegalTransition`.
        """
        ...

    async def claim(self, owner: str, lease: float, images: int) -> tuple[Job, ...]:
        """Take queued jobs for ``owner`` until ``lease``: the most urgent, then the oldest; whole orders.

        As many as make up to ``images`` images, one at least.
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
        """Images of all queued jobs together."""
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


class KeyRepository(Protocol):
    """The keys of the database, as the doorkeeper sees them."""

    async def by_digest(self, digest: str) -> Key | None:
        """The key with that secret, live or not."""
        ...

    async def live(self, now: float) -> int:
        """How many keys open something at Unix time ``now``."""
        ...


class DeliveryRepository(Protocol):
    """The outbox, as the one who empties it sees it."""

    async def claim(self, until: float, most: int) -> tuple[Delivery, ...]:
        """Take up to ``most`` messages that are due, the oldest first; nobody else tries them before ``until``."""
        ...

    async def note(self, delivery: Delivery) -> None:
        """Write down what became of an attempt; a receiver that is gone gets nothing any more."""
        ...

    async def next_due(self) -> float | None:
        """Unix time at which the next message is due; None if none waits."""
        ...


class CacheRepository(Protocol):
    """Remembers which pictures answered which request. It owns none of them: their names may lead nowhere any more."""

    async def find(self, key: str, since: float) -> Kept | None:
        """What was kept under the exact ``key`` at Unix time ``since`` or later."""
        ...

    async def find_loose(self, key: str, since: float) -> Kept | None:
        """Of what was kept under the loose ``key``, the one that was used last."""
        ...

    async def keep(self, kept: Kept) -> None:
        """Remember ``kept``, in the place of what has its exact key."""
        ...

    async def drop(self, key: str) -> None:
        """Forget what was kept under the exact ``key``."""
        ...

    async def touch(self, used: Mapping[str, float]) -> None:
        """Those exact keys were used at those Unix times."""
        ...

    async def trim(self, since: float, most_bytes: int, most: int) -> Trimmed:
        """Forget what is older than Unix time ``since``, then what was not used for longest until the rest is in bounds."""
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

    async def again(self, asset: Asset, tenant: str, job_id: str) -> Asset | None:
        """The same picture once more, as ``tenant``'s own, made for ``job_id``; None if its content is gone."""
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
