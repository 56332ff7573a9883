"""What the core needs from the outside, as protocols."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from pipelines.contract.errors import ErrorReport
from server.domain.asset import Asset, Format
from server.domain.batch import Batch, BatchPage, Line, Result, Standing
from server.domain.caching import Kept
from server.domain.decision import Decision, DecisionFilter, DecisionPage, Passed
from server.domain.idempotency import Answer, Reservation
from server.domain.job import Job, JobState
from server.domain.key import Key
from server.domain.stored import Blob, Holding, New, Stored
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

    async def drop(self, kept: Kept) -> None:
        """Forget ``kept``, and nothing that was kept in its place since."""
        ...

    async def touch(self, used: Mapping[str, float]) -> None:
        """Those exact keys were used at those Unix times."""
        ...

    async def trim(self, since: float, most_bytes: int, most: int) -> Trimmed:
        """Forget what is older than Unix time ``since``, then what was not used for longest until the rest is in bounds."""
        ...


class BatchComposer(Protocol):
    """Words the message about a batch that is over."""

    def __call__(self, batch: Batch, standing: Standing) -> bytes:
        """Its body."""
        ...


@runtime_checkable
class DecisionRepository(Protocol):
    """Remembers what moderation decided."""

    async def add(self, decision: Decision) -> None:
        """Insert ``decision``."""
        ...

    async def count(self, allowed: Mapping[tuple[str, str, str], int]) -> None:
        """Add to the numbers of what was let pass, by day (``2026-01-31``, UTC), tenant and stage."""
        ...

    async def passed(self, tenant: str | None, most: int) -> tuple[Passed, ...]:
        """The newest ``most`` of those numbers, of one tenant or of all together."""
        ...

    async def page(self, wanted: DecisionFilter, after: tuple[float, str] | None, most: int) -> DecisionPage:
        """The newest ``most`` decisions that ``wanted`` describes, from the one after ``after`` (time and id) on."""
        ...

    async def forget(self, before: float) -> int:
        """Delete what was decided before that Unix time, some at once; how many rows went."""
        ...


@runtime_checkable
class BatchRepository(Protocol):
    """Remembers batches and their lines; every change has happened, for good, once the call returns."""

    async def begin(self, batch: Batch) -> None:
        """Insert ``batch``, whose lines come; what is left of one of that id that was never accepted goes first.

        Raises `EngineFailure` if another server has accepted it meanwhile.
        """
        ...

    async def receive(self, batch: Batch, lines: Sequence[Line], inputs: Mapping[str, bytes]) -> None:
        """Add lines, and pictures that they are the first to name. Raises `EngineFailure` as `accept` does."""
        ...

    async def accept(self, batch: Batch) -> None:
        """From now on every line of it will be done. Raises `EngineFailure` if another server receives it by now."""
        ...

    async def abandon(self, batch: Batch) -> None:
        """Forget it unless it was accepted, or another server receives it by now."""
        ...

    async def get(self, batch_id: str) -> Batch | None:
        """The batch; None if it is not known, not accepted, or deleted."""
        ...

    async def standing(self, batch_id: str) -> Standing:
        """How its lines stand."""
        ...

    async def page(self, tenant: str, after: tuple[float, str] | None, most: int) -> BatchPage:
        """The newest ``most`` batches of ``tenant``, from the one after ``after`` (creation time and id) on."""
        ...

    async def open(self, tenant: str) -> int:
        """How many batches of ``tenant`` are not over."""
        ...

    async def results(self, batch_id: str, after: int, most: int) -> tuple[Result, ...]:
        """Lines after number ``after``, in the order of the file, up to the first that is not over."""
        ...

    async def input(self, batch_id: str, name: str) -> bytes | None:
        """A picture of the batch, as it was sent."""
        ...

    async def room(self) -> int:
        """Images of batches that are queued as jobs."""
        ...

    async def hungry(self, most: int) -> tuple[str, ...]:
        """Running batches with lines that are no jobs yet; first who has waited longest."""
        ...

    async def waiting(self, batch_id: str, images: int) -> tuple[Line, ...]:
        """The next lines of it that are no jobs yet: as many as make up to ``images`` images, one at least."""
        ...

    async def enqueue(self, batch_id: str, jobs: Mapping[int, Job | ErrorReport]) -> tuple[Job, ...]:
        """Make jobs of the lines with those numbers, or end them with an error; those that became jobs by this call.

        Each line becomes a job once, whoever calls this at the same time, and none does once the batch is cancelled.
        """
        ...

    async def cancel(self, batch_id: str) -> None:
        """No line of it becomes a job any more; nothing happens to a batch that is over."""
        ...

    async def cancelling(self) -> tuple[str, ...]:
        """Some ids of jobs whose batches are cancelled."""
        ...

    async def finish(self) -> tuple[Batch, ...]:
        """End batches that have nothing left to do, and write the messages that tell of it; those that ended."""
        ...

    async def delete(self, batch_id: str) -> bool:
        """Have a batch that is over forgotten: from now on nobody is shown it; False if there is none such.

        Its lines stay, as `results`, until they are dropped: so that what their jobs have made can be found.
        """
        ...

    async def deleted(self) -> Batch | None:
        """One that was deleted and is not dropped yet."""
        ...

    async def drop(self, batch: Batch, upto: int) -> None:
        """Forget the lines of a deleted batch up to number ``upto``, and itself with the last of them."""
        ...

    async def forget(self, finished_before: float, touched_before: float) -> int:
        """Delete some that were over before, or not accepted and nothing came of them since; how many."""
        ...


class IdempotencyRepository(Protocol):
    """Remembers what was answered to requests that may be sent again."""

    async def reserve(self, wanted: Reservation, lease: float, created_after: float) -> Reservation | Answer:
        """Take the key for ``wanted``, or the answer that it has; keys from before ``created_after`` are free.

        A key whose owner has fallen silent is taken over, with its resource. Raises `KeyInUse` or `KeyReused`.
        """
        ...

    async def answer(self, held: Reservation, answer: Answer) -> None:
        """Keep the answer, unless the key is another's by now."""
        ...

    async def release(self, held: Reservation) -> None:
        """The same request may come again at once."""
        ...

    async def renew(self, owner: str, resources: Iterable[str], lease: float) -> None:
        """Hold on to the keys of ``owner`` whose requests make those ``resources`` until ``lease``."""
        ...

    async def release_all(self) -> None:
        """Whoever held anything is known to be dead."""
        ...

    async def forget(self, created_before: float, most: int, most_bytes: int) -> int:
        """Delete what is older, and the oldest answers of tenants who have more, or more bytes, than that; how many."""
        ...


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


class InputSource(Protocol):
    """Where pictures that requests name are found."""

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        """The bytes called ``asset_id`` that ``tenant`` may use, or None."""
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
