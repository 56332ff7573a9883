"""What may happen to a job, and what it is afterwards: one pure function.

    queued ──Begun──> running ──Succeeded──> succeeded
      │  ^               │  ├────Failed────> failed
      │  └──Dropped──────┘  └──Cancelled───> cancelled
      ├──CancelAsked──> cancelled
      ├──Failed───────> failed
      └──Overdue──────> expired

A running job that is asked to cancel goes on until its owner hears of it. A dropped one, whose server shuts down or has died, is
queued again if it is durable and fails if it is not. Final states are final: cancelling changes nothing there, anything else is
a mistake.
"""

import msgspec
from msgspec.structs import replace

from pipelines.contract.errors import Cancelled as CancelledError
from pipelines.contract.errors import DeadlineExceeded, ErrorReport, ShuttingDown
from pipelines.contract.messages import RunStats
from server.domain.asset import Asset
from server.domain.caching import CacheResult
from server.domain.generation import Route, Usage
from server.domain.job import Job, JobState
from server.domain.verdict import Verdict


class Begun(msgspec.Struct, frozen=True):
    """A server takes it up."""

    owner: str
    lease: float


class Succeeded(msgspec.Struct, frozen=True):
    """Its images are stored."""

    assets: tuple[Asset, ...]
    stats: RunStats | None = None
    route: Route = Route()
    usage: Usage = Usage()
    verdicts: tuple[Verdict, ...] = ()
    cache: CacheResult = CacheResult.OFF


class Failed(msgspec.Struct, frozen=True):
    """It will not be done."""

    error: ErrorReport
    verdicts: tuple[Verdict, ...] = ()


class CancelAsked(msgspec.Struct, frozen=True):
    """Somebody does not want it any more."""


class Cancelled(msgspec.Struct, frozen=True):
    """Its owner has stopped it."""


class Dropped(msgspec.Struct, frozen=True):
    """Its owner will not finish it: it shuts down, or has died."""


class Overdue(msgspec.Struct, frozen=True):
    """Its deadline passed before it began."""


Happening = Begun | Succeeded | Failed | CancelAsked | Cancelled | Dropped | Overdue


class IllegalTransition(Exception):
    """That cannot happen to a job in this state."""


_CANCELLED = CancelledError("The job was cancelled.").report()


def advance(job: Job, happening: Happening, now: float) -> Job:
    """``job`` after ``happening`` at Unix time ``now``; raises `IllegalTransition`."""
    after: Job | None
    if job.state is JobState.QUEUED:
        after = _queued(job, happening, now)
    elif job.state is JobState.RUNNING:
        after = _running(job, happening, now)
    else:
        after = job if isinstance(happening, CancelAsked) else None
    if after is None:
        msg = f"job {job.id} is {job.state.value}: {type(happening).__name__} cannot happen to it"
        raise IllegalTransition(msg)
    return after


def _queued(job: Job, happening: Happening, now: float) -> Job | None:
    match happening:
        case Begun(owner=owner, lease=lease):
            started = now if job.started is None else job.started
            attempts = job.attempts + 1
            return replace(job, state=JobState.RUNNING, owner=owner, lease=lease, started=started, attempts=attempts)
        case CancelAsked():
            return _over(job, JobState.CANCELLED, now, CancelledError("The job was cancelled before it began.").report())
        case Overdue():
            return _over(job, JobState.EXPIRED, now, DeadlineExceeded("The deadline passed before the job began.").report())
        case Failed(error=error):
            return _over(job, JobState.FAILED, now, error)
        case _:
            return None


def _running(job: Job, happening: Happening, now: float) -> Job | None:
    match happening:
        case CancelAsked():
            return replace(job, cancel_asked=True)
        case Succeeded(assets=assets, stats=stats, route=route, usage=usage, verdicts=verdicts, cache=cache):
            over = _over(job, JobState.SUCCEEDED, now, None)
            return replace(over, assets=assets, stats=stats, route=route, usage=usage, verdicts=verdicts, cache=cache)
        case Failed(error=error, verdicts=verdicts):
            return replace(_over(job, JobState.FAILED, now, error), verdicts=verdicts)
        case Cancelled():
            return _over(job, JobState.CANCELLED, now, _CANCELLED)
        case Dropped():
            return _dropped(job, now)
        case _:
            return None


def _dropped(job: Job, now: float) -> Job:
    if job.cancel_asked:
        return _over(job, JobState.CANCELLED, now, _CANCELLED)
    if job.durable:
        return replace(job, state=JobState.QUEUED, owner=None, lease=None)
    return _over(job, JobState.FAILED, now, ShuttingDown("The server shut down before the request was finished.").report())


def _over(job: Job, state: JobState, now: float, error: ErrorReport | None) -> Job:
    return replace(job, state=state, finished=now, error=error, owner=None, lease=None)
