"""Jobs in the database. What may become of a job is decided by `server.domain.transitions` alone; here it is made to last."""

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import Row, bindparam, delete, func, insert, select, true, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.db.database import Database
from server.db.tables import INPUTS, JOBS, WEBHOOKS
from server.db.turns import ORDER, next_bulk, next_turn, next_urgent
from server.db.upserting import upsert
from server.db.webhooks import Ends
from server.domain.clock import Clock
from server.domain.job import Job, JobState, Order
from server.domain.ports.jobs import Ahead, JobFilter, JobPage
from server.domain.transitions import Begun, Dropped, Happening, Overdue, advance
from server.domain.webhook import DeliveryState

_COMPRESSION = 1
"""Raw pixels shrink to a half or a tenth even so; more costs more time than the disk."""

_AT_ONCE = 256
"""Rows in one transaction of upkeep."""


# Values come beside statements that are made once: making one with its values in it costs more than running it.
_INSERT = insert(JOBS)
_UPDATE = update(JOBS).where(JOBS.c.id == bindparam("which"))


class SqlJobs:
    """A `JobRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_clock", "_database", "_outbox", "_records")

    def __init__(self, database: Database, clock: Clock, outbox: Ends) -> None:
        """``outbox`` hears of jobs that are over, in the transaction that ends them."""
        self._database, self._clock, self._outbox = database, clock, outbox
        adds = upsert(database, JOBS)
        self._records = adds.on_conflict_do_update(
            index_elements=["id"],
            set_={column.name: adds.excluded[column.name] for column in JOBS.c if column.name not in ("id", "turn")},
            where=(JOBS.c.state == JobState.RUNNING.value) & ~JOBS.c.durable,
        )

    async def add(self, job: Job) -> None:
        """Insert ``job``; its input pictures with it if it is durable."""
        inputs = await packed_inputs(job)
        async with self._database.writing() as connection:
            await insert_job(connection, job, inputs)

    async def record(self, jobs: Sequence[Job]) -> None:
        """Write ``jobs`` as they stand, all or none; what is over there, or durable, is left as it is."""
        if jobs:
            async with self._database.writing() as connection:
                await connection.execute(self._records, [_columns(job) for job in jobs])
                await self._outbox.put(connection, jobs, self._clock.time())

    async def get(self, job_id: str) -> Job | None:
        """The job without its input pictures, or None."""
        async with self._database.reading() as connection:
            record = (await connection.execute(select(JOBS.c.record).where(JOBS.c.id == job_id))).scalar()
        return None if record is None else _job(record)

    async def happen(self, job_id: str, happening: Happening, *, owner: str | None = None) -> Job | None:
        """The job after ``happening``; None if there is no such job, or ``owner`` is not its owner (any more).

        Raises `IllegalTransition`.
        """
        async with self._database.writing() as connection:
            record = (await connection.execute(select(JOBS.c.record).where(JOBS.c.id == job_id).with_for_update())).scalar()
            if record is None:
                return None
            job = _job(record)
            if owner is not None and job.owner != owner:
                return None
            after = advance(job, happening, self._clock.time())
            await _write(connection, [after])
            if not job.state.final:
                await self._outbox.put(connection, [after], self._clock.time())
            return after

    async def claim(self, owner: str, lease: float, images: int, bulk: int | None = None) -> tuple[Job, ...]:
        """Take queued jobs for ``owner`` until ``lease``: the most urgent, and of those by turns of the tenants; whole orders.

        As many as make up to ``images`` images, one at least. Bulk ones fill what the others leave of ``bulk`` images, of
        ``images`` if it is None. Several servers may do this at the same time: none gets what another has.
        """
        async with self._database.writing() as connection:
            fitting = _fitting((await connection.execute(next_urgent(images))).all(), images)
            left = (images if bulk is None else bulk) - sum(row.images for row in fitting)
            if left > 0:
                fitting += _fitting((await connection.execute(next_bulk(left))).all(), left)
            if not fitting:
                return ()
            now = self._clock.time()
            jobs = [advance(_job(row.record), Begun(owner, lease), now) for row in fitting]
            await _write(connection, jobs)
            inputs = select(INPUTS.c.job_id, INPUTS.c.order).where(INPUTS.c.job_id.in_([job.id for job in jobs]))
            packed = {row.job_id: row.order for row in (await connection.execute(inputs)).all()}
        return tuple(await asyncio.to_thread(_completed, jobs, packed))

    async def renew(self, owner: str, ids: Iterable[str], lease: float) -> Mapping[str, bool]:
        """Hold on to those jobs until ``lease``: which of them are ``owner``'s, and of each whether it shall be cancelled."""
        wanted = list(ids)
        if not wanted:
            return {}
        mine = JOBS.c.id.in_(wanted) & (JOBS.c.state == JobState.RUNNING.value) & (JOBS.c.owner == owner)
        async with self._database.writing() as connection:
            records = (await connection.execute(select(JOBS.c.record).where(mine).with_for_update())).scalars().all()
            jobs = [replace(_job(record), lease=lease) for record in records]
            await _write(connection, jobs)
        return {job.id: job.cancel_asked for job in jobs}

    async def sweep(self, *, everybody: bool = False) -> tuple[Job, ...]:
        """Drop the jobs whose owner has not been heard of, and end those whose deadline passed in the queue; what changed.

        ``everybody``: whoever owned anything is known to be dead.
        """
        now = self._clock.time()
        lapsed = (JOBS.c.state == JobState.RUNNING.value) & (true() if everybody else JOBS.c.lease < now)
        overdue = (JOBS.c.state == JobState.QUEUED.value) & (JOBS.c.deadline < now)
        async with self._database.writing() as connection:
            changed: list[Job] = []
            for which, happening in ((lapsed, Dropped()), (overdue, Overdue())):
                found = select(JOBS.c.record).where(which).limit(_AT_ONCE).with_for_update(skip_locked=True)
                records = (await connection.execute(found)).scalars().all()
                changed += [advance(_job(record), happening, now) for record in records]
            await _write(connection, changed)
            await self._outbox.put(connection, changed, now)
        return tuple(changed)

    async def ahead(self, job: Job) -> Ahead:
        """What is queued before ``job``."""
        turn = select(JOBS.c.turn).where(JOBS.c.id == job.id).scalar_subquery()
        mine = (int(job.order.priority), turn, job.created, job.id)
        count = select(func.count(), func.coalesce(func.sum(JOBS.c.work), 0.0)).where(
            JOBS.c.state == JobState.QUEUED.value, tuple_(*ORDER) < tuple_(*mine)
        )
        async with self._database.reading() as connection:
            jobs, work = (await connection.execute(count)).one()
        return Ahead(int(jobs), int(work))

    async def queued_images(self) -> int:
        """Images of all queued jobs together, but for those of batches: they stand behind all others."""
        queued = (JOBS.c.state == JobState.QUEUED.value) & JOBS.c.batch.is_(None)
        total = select(func.coalesce(func.sum(JOBS.c.images), 0)).where(queued)
        async with self._database.reading() as connection:
            return int((await connection.execute(total)).scalar_one())

    async def page(self, wanted: JobFilter, after: tuple[float, str] | None, most: int) -> JobPage:
        """The newest ``most`` jobs that ``wanted`` describes, from the one after ``after`` (creation time and id) on."""
        query = select(JOBS.c.record).where(JOBS.c.tenant == wanted.tenant)
        if wanted.states:
            query = query.where(JOBS.c.state.in_([state.value for state in wanted.states]))
        if wanted.model is not None:
            query = query.where(JOBS.c.model == wanted.model)
        if wanted.batch is not None:
            query = query.where(JOBS.c.batch == wanted.batch)
        if wanted.since is not None:
            query = query.where(JOBS.c.created >= wanted.since)
        if wanted.until is not None:
            query = query.where(JOBS.c.created < wanted.until)
        if after is not None:
            query = query.where(tuple_(JOBS.c.created, JOBS.c.id) < tuple_(*after))
        query = query.order_by(JOBS.c.created.desc(), JOBS.c.id.desc()).limit(most + 1)
        async with self._database.reading() as connection:
            records = (await connection.execute(query)).scalars().all()
        return JobPage(tuple(_job(record) for record in records[:most]), more=len(records) > most)

    async def delete(self, job_id: str) -> bool:
        """Forget a job that is over; False if it is not, or not known."""
        over = JOBS.c.state.notin_([JobState.QUEUED.value, JobState.RUNNING.value])
        async with self._database.writing() as connection:
            return (await connection.execute(delete(JOBS).where(JOBS.c.id == job_id, over))).rowcount > 0

    async def forget(self, finished_before: float) -> tuple[Job, ...]:
        """Delete jobs that were over before that Unix time, some at once, and messages that were settled before; the jobs."""
        old = select(JOBS.c.record).where(JOBS.c.finished < finished_before).limit(_AT_ONCE).with_for_update(skip_locked=True)
        async with self._database.writing() as connection:
            jobs = [_job(record) for record in (await connection.execute(old)).scalars().all()]
            await connection.execute(delete(JOBS).where(JOBS.c.id.in_([job.id for job in jobs])))
            # Those that are still to be delivered stay, whatever becomes of their job.
            settled = (WEBHOOKS.c.created < finished_before) & (WEBHOOKS.c.state != DeliveryState.PENDING.value)
            await connection.execute(delete(WEBHOOKS).where(settled))
        return tuple(jobs)


async def packed_inputs(job: Job) -> bytes | None:
    """What must be kept beside the record of ``job``, so that it can be done after a restart."""
    return await asyncio.to_thread(_packed, job.order) if job.durable and _pictured(job.order) else None


async def insert_job(connection: AsyncConnection, job: Job, inputs: bytes | None) -> None:
    """Write ``job`` and its `packed_inputs` into the transaction at hand."""
    await connection.execute(_INSERT, {**_columns(job), "turn": await next_turn(connection, job)})
    if inputs is not None:
        await connection.execute(insert(INPUTS).values(job_id=job.id, order=inputs))


async def _write(connection: AsyncConnection, jobs: Iterable[Job]) -> None:
    """Put ``jobs`` over what is there under their ids; those that are over need their inputs no more."""
    jobs = list(jobs)
    for job in jobs:
        columns = _columns(job)
        await connection.execute(_UPDATE, {"which": columns.pop("id"), **columns})
    over = [job.id for job in jobs if job.state.final and job.durable]
    if over:
        await connection.execute(delete(INPUTS).where(INPUTS.c.job_id.in_(over)))


def _fitting(rows: Sequence[Row[Any]], images: int) -> list[Row[Any]]:
    """As many of ``rows``, from the first, as make up to ``images`` images; one at least."""
    together = accumulate(row.images for row in rows)
    return [row for row, sum_ in zip(rows, together, strict=True) if sum_ <= images] or list(rows[:1])


def _columns(job: Job) -> dict[str, Any]:
    request = job.order.request
    return {
        "id": job.id,
        "tenant": job.order.tenant,
        "state": job.state.value,
        "durable": job.durable,
        "priority": int(job.order.priority),
        "model": request.model,
        "images": job.images,
        "work": float(job.work),
        "created": job.created,
        "finished": job.finished,
        "deadline": request.deadline,
        "owner": job.owner,
        "lease": job.lease,
        "batch": None if job.order.line is None else job.order.line.batch,
        "record": msgspec.msgpack.encode(job.without_input()),
    }


def _job(record: bytes) -> Job:
    return msgspec.msgpack.decode(record, type=Job)


def _pictured(order: Order) -> bool:
    request = order.request
    return request.init is not None or bool(request.controls) or bool(request.references)


def _packed(order: Order) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(order), _COMPRESSION)


def _completed(jobs: Iterable[Job], packed: Mapping[str, bytes]) -> list[Job]:
    return [
        replace(job, order=msgspec.msgpack.decode(zlib.decompress(packed[job.id]), type=Order)) if job.id in packed else job
        for job in jobs
    ]
