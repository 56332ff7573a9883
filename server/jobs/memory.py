"""Jobs remembered in memory, for a while."""

from collections import OrderedDict

from server.domain.clock import Clock
from server.domain.job import Job


class MemoryRepository:
    """A `JobRepository` that forgets finished jobs, the oldest first, by number and by age."""

    __slots__ = ("_clock", "_finished", "_jobs", "_most", "_seconds")

    def __init__(self, clock: Clock, *, most: int = 1000, seconds: float = 3600.0) -> None:
        self._clock = clock
        self._most = most
        self._seconds = seconds
        self._jobs: dict[str, Job] = {}
        self._finished: OrderedDict[str, float] = OrderedDict()

    async def save(self, job: Job) -> None:
        """Remember ``job``; a finished one without its input pictures."""
        if job.state.final:
            self._jobs[job.id] = job.without_input()
            self._finished[job.id] = self._clock.monotonic()
            self._forget()
        else:
            self._jobs[job.id] = job

    async def get(self, job_id: str) -> Job | None:
        """The job, or None if it is not known any more."""
        self._forget()
        return self._jobs.get(job_id)

    def _forget(self) -> None:
        oldest = self._clock.monotonic() - self._seconds
        while self._finished:
            job_id, finished = next(iter(self._finished.items()))
            if len(self._finished) <= self._most and finished >= oldest:
                return
            self._finished.popitem(last=False)
            self._jobs.pop(job_id, None)
