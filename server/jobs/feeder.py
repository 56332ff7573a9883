"""Makes jobs of the lines of batches, a few at a time: the queue of jobs stays short, and batches take turns.

A line becomes a job, and ends with it, in one transaction each: whoever dies, and however many servers feed, it is done once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import AquatintError, EngineFailure, ErrorReport
from server.domain.batch import Line
from server.domain.clock import Clock
from server.domain.job import Job, Order
from server.domain.ports.batches import BatchRepository
from server.jobs.service import JobService
from server.jobs.setbacks import Setbacks

Refill = Callable[[str, Line], Awaitable[Order]]
"""The order of a line of the batch with that id, with its pictures."""

Discard = Callable[[str, str], Awaitable[int]]
"""Lets go of all that a job of a tenant has made."""


class Feed(msgspec.Struct, frozen=True):
    """How much and how often; seconds."""

    ahead: int = 64
    """Images of all batches that are queued at the same time: enough for a server's hands, few enough to take turns."""
    poll: float = 3.0
    """Batches are looked after at least so often: other servers take jobs, and batches, too. Its own are heard of at once."""
    pause: float = 0.05
    """And at most so often."""
    tidy: float = 60.0
    """What is to be forgotten is looked for so often."""
    keep: float = 30 * 24 * 3600.0
    """How long batches that are over are remembered."""
    stale: float = 3600.0
    """A batch whose file has stopped coming for so long is nobody's."""
    going: int = 64
    """Lines of a deleted batch that go in one round, with their jobs and pictures: others get their turn at the database."""
    setback: float = 10.0
    """A batch that could not be fed is left alone for so long."""
    patience: int = 5
    """After so many setbacks in a row a line that cannot be made ready has failed, whatever the reason."""


class Feeder:
    """Looks after all batches. Several servers may do so over one database."""

    __slots__ = (
        "_batches",
        "_clock",
        "_closing",
        "_discard",
        "_ended",
        "_feed",
        "_jobs",
        "_log",
        "_news",
        "_refill",
        "_setbacks",
        "_tidied",
    )

    def __init__(
        self,
        batches: BatchRepository,
        jobs: JobService,
        refill: Refill,
        *,
        ended: Callable[[], None],
        discard: Discard,
        clock: Clock,
        log: FilteringBoundLogger,
        feed: Feed = Feed(),  # noqa: B008 - a frozen struct
    ) -> None:
        """``ended`` hears when batches are over."""
        self._batches, self._jobs, self._refill, self._ended, self._discard = batches, jobs, refill, ended, discard
        self._clock, self._log, self._feed = clock, log, feed
        self._setbacks = Setbacks(feed.setback, feed.patience)
        self._tidied = float("-inf")
        self._news, self._closing = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Feeder"]:
        """Inside the block batches are looked after; a transaction under way at its end is finished."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(), name="feed batches")
            try:
                yield self
            finally:
                self._closing.set()
                self._news.set()

    def look(self) -> None:
        """There is a batch, or one of its jobs is over, or it is to be cancelled or was deleted."""
        self._news.set()

    async def _work(self) -> None:
        while not self._closing.is_set():
            self._news.clear()
            # Each by itself: what one of them stumbles over holds up none of the others.
            for chore in (self._revoke, self._top_up, self._finish, self._let_go, self._forget):
                with self._told("batches cannot be looked after", chore=chore.__name__):
                    await chore()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._feed.pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._feed.poll)

    async def _revoke(self) -> None:
        for job_id in await self._batches.cancelling():
            with self._told("a job of a cancelled batch cannot be stopped", job=job_id):
                await self._jobs.revoke(job_id)

    async def _finish(self) -> None:
        for batch in await self._batches.finish():
            self._log.info("batch is over", batch=batch.id, state=batch.state.value, lines=batch.lines)
            self._setbacks.forget(batch.id)
            self._ended()

    async def _let_go(self) -> None:
        """Some lines of a deleted batch, and what they made, go for good.

        In this order: whoever dies in between leaves lines, and the next round, of whatever server, finds all that they made.
        """
        batch = await self._batches.deleted()
        if batch is None:
            return
        lines = await self._batches.results(batch.id, 0, self._feed.going)
        for line in lines:
            if line.ended.job_id is not None:
                await self._discard(batch.tenant, line.ended.job_id)
                await self._jobs.delete(line.ended.job_id)
        await self._batches.drop(batch, lines[-1].number if lines else 0)
        self.look()

    async def _forget(self) -> None:
        now = self._clock.time()
        if now >= self._tidied + self._feed.tidy:
            self._tidied = now
            await self._batches.forget(now - self._feed.keep, now - self._feed.stale)

    async def _top_up(self) -> None:
        """Fill the queue up to the mark, in gulps; what is left of it is shared by the batches that wait."""
        if self._jobs.draining:
            return
        free = self._feed.ahead - await self._batches.room()
        if 2 * free < self._feed.ahead:
            return
        now = self._clock.monotonic()
        hungry = await self._batches.hungry(free + len(self._setbacks))
        well = [batch_id for batch_id in hungry if not self._setbacks.waits(batch_id, now)][:free]
        share = max(1, free // max(1, len(well)))
        for batch_id in well:
            try:
                await self._feed_lines(batch_id, await self._batches.waiting(batch_id, share))
            except Exception:  # noqa: BLE001 - the others are to be fed
                self._log.exception("a batch cannot be fed", batch=batch_id)
                self._setbacks.note(batch_id, now)
            else:
                self._setbacks.forget(batch_id)

    async def _feed_lines(self, batch_id: str, lines: Sequence[Line]) -> None:
        portion: dict[int, Job | ErrorReport] = {}
        for line in lines:
            portion[line.number] = await self._drafted(batch_id, line)
            if line.wanted.pictures:
                # Decoded pictures are large: no more of them are held than one line has.
                await self._enqueue(batch_id, portion)
                portion = {}
        if portion:
            await self._enqueue(batch_id, portion)

    async def _drafted(self, batch_id: str, line: Line) -> Job | ErrorReport:
        try:
            return self._jobs.draft(await self._refill(batch_id, line))
        except AquatintError as error:
            return error.report()
        except Exception:
            if not self._setbacks.hopeless(batch_id):
                raise  # a database that is away comes back
            self._log.exception("a line is given up", batch=batch_id, line=line.number)
            return EngineFailure("The server made a mistake; it is logged.").report()

    async def _enqueue(self, batch_id: str, portion: dict[int, Job | ErrorReport]) -> None:
        for job in await self._batches.enqueue(batch_id, portion):
            self._jobs.arrived(job)

    @contextlib.contextmanager
    def _told(self, what: str, **of: str) -> Iterator[None]:
        """What goes wrong is tried again in the next round; the operator hears of it."""
        try:
            yield
        except Exception:  # noqa: BLE001 - a database that is away comes back
            self._log.exception(what, **of)
