"""What happens to jobs, for whoever watches: bounded memory, and nobody who watches slows anybody down."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from pipelines.contract.messages import Preview, Progress
from server.domain.call import Emit
from server.domain.job import Job

_KEPT = 128
"""Events of one job that a watcher who comes back may still get."""


class Moment(msgspec.Struct, frozen=True):
    """One event of one job; ``number`` counts from 1 in each job's life in this process."""

    number: int
    kind: Literal["queued", "started", "progress", "preview", "finished"]
    job: Job | None = None
    """QUEUED, STARTED, FINISHED: the job as it is then."""
    progress: Progress | None = None
    preview: Preview | None = None


@dataclass(slots=True, eq=False)
class _Channel:
    moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=_KEPT))
    count: int = 0
    over: bool = False
    watchers: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Bus:
    """Owns the recent events of recent jobs."""

    __slots__ = ("_channels", "_most")

    def __init__(self, most: int = 1000) -> None:
        """Remember at most ``most`` jobs, and those that are watched: another server may end what began here, and never tell."""
        self._channels: OrderedDict[str, _Channel] = OrderedDict()
        self._most = most

    def sink(self, job_id: str) -> Emit:
        """Where a job's progress goes."""

        def emit(event: Progress | Preview) -> None:
            if isinstance(event, Progress):
                self._put(job_id, "progress", progress=event)
            else:
                self._put(job_id, "preview", preview=event)

        return emit

    def queued(self, job: Job) -> None:
        """It waits."""
        self._put(job.id, "queued", job=job.without_input())

    def started(self, job: Job) -> None:
        """It runs."""
        self._put(job.id, "started", job=job.without_input())

    def finished(self, job: Job) -> None:
        """It is over; nothing comes after this, not even the same once more."""
        if job.id in self._channels and self._channels[job.id].over:
            return
        self._put(job.id, "finished", job=job).over = True

    async def since(self, job_id: str, after: int, seconds: float) -> tuple[Moment, ...]:
        """The events with numbers above ``after``; none if nothing comes within ``seconds``. Who is slow misses some."""
        channel = self._channels.setdefault(job_id, _Channel())
        if channel.count <= after:
            channel.watchers += 1
            channel.news.clear()
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(channel.news.wait(), seconds)
            finally:
                # Whoever watches may hang up at any moment.
                channel.watchers -= 1
                if not channel.count and not channel.watchers:
                    self._channels.pop(job_id, None)  # nobody has ever said anything of it here
        return tuple(moment for moment in channel.moments if moment.number > after)

    def remembers(self, job_id: str, after: int) -> bool:
        """Whether something is to come from here after event ``after``."""
        channel = self._channels.get(job_id)
        return channel is not None and channel.count > after

    def _put(
        self, job_id: str, kind: Literal["queued", "started", "progress", "preview", "finished"], **fields: object
    ) -> _Channel:
        channel = self._channels.setdefault(job_id, _Channel())
        channel.count += 1
        channel.moments.append(Moment(channel.count, kind, **fields))  # type: ignore[arg-type] # one of the three, by name
        channel.news.set()
        self._channels.move_to_end(job_id)
        if len(self._channels) > self._most:
            # The last is the one at hand; those that are watched are as many as there are connections.
            silent = next((other for other, each in self._channels.items() if not each.watchers and each is not channel), None)
            if silent is not None:
                del self._channels[silent]
        return channel
