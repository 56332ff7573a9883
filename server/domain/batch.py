"""A batch: many requests handed in as one file, done when nobody else waits."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from pipelines.contract.errors import ErrorReport
from server.domain.asset import Asset
from server.domain.job import Job, Order
from server.domain.webhook import Notify


class BatchState(StrEnum):
    """Where a batch stands; nothing leads back."""

    RECEIVING = "receiving"
    """Its lines are being read: not accepted yet, and nobody is shown it."""
    RUNNING = "running"
    CANCELLING = "cancelling"
    """No line begins any more; some have yet to stop."""
    FINISHED = "finished"
    """Every line is over, in whatever way."""
    CANCELLED = "cancelled"
    DELETED = "deleted"
    """It was over, and nobody is shown it any more; its lines go, with their jobs and pictures."""


class LineState(StrEnum):
    """Where a line stands; those after the first two are its job's, and final."""

    WAITING = "waiting"
    """It is no job yet."""
    QUEUED = "queued"
    """It is a job that is not over."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


OPEN = (LineState.WAITING, LineState.QUEUED)
"""The states of lines that are not over."""


class Batch(msgspec.Struct, frozen=True):
    """One batch, without its lines."""

    id: str
    tenant: str
    state: BatchState
    created: float
    """Unix time."""
    finished: float | None = None
    lines: int = 0
    images: int = 0
    notify: Notify | None = None
    """Who wants to hear of its end."""


class Pictured(msgspec.Struct, frozen=True):
    """The names of a line's pictures among those of its batch."""

    image: str | None = None
    mask: str | None = None
    controls: tuple[str, ...] = ()
    references: tuple[tuple[str, ...], ...] = ()
    single: tuple[bool, ...] = ()
    """Of each reference: whether its picture was sent as ``image``, not as one of ``images``."""

    def __bool__(self) -> bool:
        return self != Pictured()


class Wanted(msgspec.Struct, frozen=True):
    """What a line asks for."""

    order: Order
    """Without pictures."""
    pictures: Pictured = Pictured()


class Line(msgspec.Struct, frozen=True):
    """One line that is to become a job."""

    number: int
    """In the file, from 1."""
    custom_id: str
    """The caller's own name for it."""
    wanted: Wanted


class Ended(msgspec.Struct, frozen=True):
    """What became of a line."""

    job_id: str | None = None
    """None if it never was a job."""
    assets: tuple[Asset, ...] = ()
    error: ErrorReport | None = None

    @classmethod
    def of(cls, job: Job) -> "Ended":
        """What became of ``job``, which is over."""
        return cls(job.id, job.assets, job.error)


class Result(msgspec.Struct, frozen=True):
    """A line that is over."""

    number: int
    custom_id: str
    state: LineState
    ended: Ended


class Standing(msgspec.Struct, frozen=True):
    """How the lines of a batch stand."""

    counts: Mapping[LineState, int]
    running: int
    """Of those that are jobs: how many run."""
    work: int
    """Pixel-steps of what is not over."""

    def count(self, *states: LineState) -> int:
        """How many lines are in one of those states."""
        return sum(self.counts.get(state, 0) for state in states)


class BatchPage(msgspec.Struct, frozen=True):
    """Some batches, the newest first."""

    batches: tuple[Batch, ...]
    more: bool
    """Whether there are older ones."""
