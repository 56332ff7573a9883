"""Batches in the database: lines become jobs, and end with them, in one transaction each time."""

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Row, Select, delete, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipelines.contract.errors import Cancelled, EngineFailure, ErrorReport
from server.db.database import Database
from server.db.jobs import insert_job, packed_inputs
from server.db.tables import BATCH_INPUTS, BATCH_LINES, BATCHES, JOBS
from server.db.webhooks import Ends, insert_messages, new_message
from server.domain.batch import (
    OPEN,
    Batch,
    BatchPage,
    BatchState,
    Ended,
    Line,
    LineState,
    Result,
    Standing,
    Wanted,
)
from server.domain.clock import Clock
from server.domain.job import Job, JobState
from server.domain.ports.batches import BatchComposer
from server.domain.webhook import Delivery, Notify

_COMPRESSION = 1
_AT_ONCE = 256
"""Rows in one transaction of upkeep."""

_OPEN = [state.value for state in OPEN]
_LIVE = [BatchState.RUNNING.value, BatchState.CANCELLING.value]
_SHOWN = BATCHES.c.state.not_in([BatchState.RECEIVING.value, BatchState.DELETED.value])
_CANCELLED = Cancelled("The batch was cancelled before the line began.").report()


class LineEnds:
    """Writes how the lines of batches ended, in the transaction that ends their jobs; ``others`` hear of it too."""

    __slots__ = ("_others",)

    def __init__(self, others: Ends) -> None:
        self._others = others

    async def put(self, connection: AsyncConnection, jobs: Iterable[Job], now: float) -> None:
        """Write what became of the lines that are ``jobs``."""
        jobs = list(jobs)
        for job in jobs:
            if job.order.line is not None and job.state.final:
                await _end(connection, job.order.line.batch, job.order.line.number, LineState(job.state.value), Ended.of(job))
        await self._others.put(connection, jobs, now)


class SqlBatches:
    """A `BatchRepository` over SQLite or PostgreSQL."""

    __slots__ = ("_clock", "_compose", "_database")

    def __init__(self, database: Database, clock: Clock, compose: BatchComposer) -> None:
        """``compose`` makes the message that tells of a batch's end."""
        self._database, self._clock, self._compose = database, clock, compose

    async def begin(self, batch: Batch) -> None:
        """Insert ``batch``, whose lines come; what is left of one of that id that was never accepted goes first.

        Raises `EngineFailure` if another server has accepted it meanwhile.
        """
        async with self._database.writing() as connection:
            there = select(BATCHES.c.state).where(BATCHES.c.id == batch.id).with_for_update()
            state = (await connection.execute(there)).scalar()
            if state not in (None, BatchState.RECEIVING.value):
                raise _taken_over()
            await _delete(connection, [batch.id])
            await connection.execute(insert(BATCHES).values({**_columns(batch), "touched": self._clock.time()}))

    async def receive(self, batch: Batch, lines: Sequence[Line], inputs: Mapping[str, bytes]) -> None:
        """Add lines, and pictures that they are the first to name. Raises `EngineFailure` as `accept` does."""
        rows = await asyncio.to_thread(lambda: [_line_columns(batch.id, line) for line in lines])
        async with self._database.writing() as connection:
            touched = update(BATCHES).where(_coming_in(batch)).values(touched=self._clock.time())
            if not (await connection.execute(touched)).rowcount:
                raise _taken_over()
            if rows:
                await connection.execute(insert(BATCH_LINES), rows)
            for name, data in inputs.items():
                await connection.execute(insert(BATCH_INPUTS).values(batch_id=batch.id, name=name, data=data))

    async def accept(self, batch: Batch) -> None:
        """From now on every line of it will be done. Raises `EngineFailure` if another server receives it by now."""
        async with self._database.writing() as connection:
            changes = {**_columns(batch), "state": BatchState.RUNNING.value}
            if not (await connection.execute(update(BATCHES).where(_coming_in(batch)).values(changes))).rowcount:
                raise _taken_over()

    async def abandon(self, batch: Batch) -> None:
        """Forget it unless it was accepted, or another server receives it by now."""
        async with self._database.writing() as connection:
            there = select(BATCHES.c.id).where(_coming_in(batch)).with_for_update()
            await _delete(connection, (await connection.execute(there)).scalars().all())

    async def get(self, batch_id: str) -> Batch | None:
        """The batch; None if it is not known, not accepted, or deleted."""
        query = select(BATCHES).where(BATCHES.c.id == batch_id, _SHOWN)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _batch(row)

    async def standing(self, batch_id: str) -> Standing:
        """How its lines stand."""
        async with self._database.reading() as connection:
            return await _standing(connection, batch_id)

    async def page(self, tenant: str, after: tuple[float, str] | None, most: int) -> BatchPage:
        """The newest ``most`` batches of ``tenant``, from the one after ``after`` (creation time and id) on."""
        query = select(BATCHES).where(BATCHES.c.tenant == tenant, _SHOWN)
        if after is not None:
            query = query.where(tuple_(BATCHES.c.created, BATCHES.c.id) < tuple_(*after))
        query = query.order_by(BATCHES.c.created.desc(), BATCHES.c.id.desc()).limit(most + 1)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return BatchPage(tuple(_batch(row) for row in rows[:most]), more=len(rows) > most)

    async def open(self, tenant: str) -> int:
        """How many batches of ``tenant`` are not over."""
        count = select(func.count()).where(BATCHES.c.tenant == tenant, BATCHES.c.finished.is_(None))
        async with self._database.reading() as connection:
            return int((await connection.execute(count)).scalar_one())

    async def results(self, batch_id: str, after: int, most: int) -> tuple[Result, ...]:
        """Lines after number ``after``, in the order of the file, up to the first that is not over."""
        query = (
            select(BATCH_LINES.c.number, BATCH_LINES.c.custom_id, BATCH_LINES.c.state, BATCH_LINES.c.ended)
            .where(BATCH_LINES.c.batch_id == batch_id, BATCH_LINES.c.number > after)
            .order_by(BATCH_LINES.c.number)
            .limit(most)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return tuple(
            Result(row.number, row.custom_id, LineState(row.state), msgspec.msgpack.decode(row.ended, type=Ended))
            for row in takewhile(lambda row: row.state not in _OPEN, rows)
        )

    async def input(self, batch_id: str, name: str) -> bytes | None:
        """A picture of the batch, as it was sent."""
        query = select(BATCH_INPUTS.c.data).where(BATCH_INPUTS.c.batch_id == batch_id, BATCH_INPUTS.c.name == name)
        async with self._database.reading() as connection:
            found: bytes | None = (await connection.execute(query)).scalar()
            return found

    async def room(self) -> int:
        """Images of batches that are queued as jobs."""
        queued = (JOBS.c.state == JobState.QUEUED.value) & JOBS.c.batch.is_not(None)
        async with self._database.reading() as connection:
            total = await connection.execute(select(func.coalesce(func.sum(JOBS.c.images), 0)).where(queued))
            return int(total.scalar_one())

    async def hungry(self, most: int) -> tuple[str, ...]:
        """Running batches with lines that are no jobs yet; first who has waited longest."""
        query = (
            select(BATCHES.c.id)
            .where(BATCHES.c.state == BatchState.RUNNING.value, _has_lines(LineState.WAITING.value))
            .order_by(BATCHES.c.touched, BATCHES.c.id)
            .limit(most)
        )
        async with self._database.reading() as connection:
            return tuple((await connection.execute(query)).scalars().all())

    async def waiting(self, batch_id: str, images: int) -> tuple[Line, ...]:
        """The next lines of it that are no jobs yet: as many as make up to ``images`` images, one at least."""
        query = (
            select(BATCH_LINES)
            .where(BATCH_LINES.c.batch_id == batch_id, BATCH_LINES.c.state == LineState.WAITING.value)
            .order_by(BATCH_LINES.c.number)
            .limit(images)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        together = accumulate(row.images for row in rows)
        fitting = [row for row, sum_ in zip(rows, together, strict=True) if sum_ <= images] or rows[:1]
        return tuple(_line(row) for row in fitting)

    async def enqueue(self, batch_id: str, jobs: Mapping[int, Job | ErrorReport]) -> tuple[Job, ...]:
        """Make jobs of the lines with those numbers, or end them with an error; those that became jobs by this call.

        Each line becomes a job once, whoever calls this at the same time, and none does once the batch is cancelled.
        """
        packed = {number: await packed_inputs(job) for number, job in jobs.items() if isinstance(job, Job)}
        made: list[Job] = []
        async with self._database.writing() as connection:
            # Whoever holds the row of the batch feeds it; another waits here, and finds its lines taken.
            held = select(BATCHES.c.id).where(BATCHES.c.id == batch_id, BATCHES.c.state == BatchState.RUNNING.value)
            if (await connection.execute(held.with_for_update())).first() is None:
                return ()
            wanted = select(BATCH_LINES.c.number).where(
                BATCH_LINES.c.batch_id == batch_id,
                BATCH_LINES.c.number.in_(list(jobs)),
                BATCH_LINES.c.state == LineState.WAITING.value,
            )
            for number in sorted((await connection.execute(wanted)).scalars().all()):
                job = jobs[number]
                if isinstance(job, ErrorReport):
                    await _end(connection, batch_id, number, LineState.FAILED, Ended(error=job))
                    continue
                await insert_job(connection, job, packed[number])
                await _change(connection, batch_id, number, state=LineState.QUEUED.value, wanted=None)
                made.append(job)
            await connection.execute(update(BATCHES).where(BATCHES.c.id == batch_id).values(touched=self._clock.time()))
        return tuple(made)

    async def cancel(self, batch_id: str) -> None:
        """No line of it becomes a job any more; nothing happens to a batch that is over."""
        running = (BATCHES.c.id == batch_id) & (BATCHES.c.state == BatchState.RUNNING.value)
        ended = msgspec.msgpack.encode(Ended(error=_CANCELLED))
        async with self._database.writing() as connection:
            changed = await connection.execute(update(BATCHES).where(running).values(state=BatchState.CANCELLING.value))
            if changed.rowcount:
                waiting = (BATCH_LINES.c.batch_id == batch_id) & (BATCH_LINES.c.state == LineState.WAITING.value)
                changes = {"state": LineState.CANCELLED.value, "wanted": None, "ended": ended}
                await connection.execute(update(BATCH_LINES).where(waiting).values(changes))

    async def cancelling(self) -> tuple[str, ...]:
        """Some ids of jobs whose batches are cancelled."""
        query = (
            select(JOBS.c.id)
            .join(BATCHES, BATCHES.c.id == JOBS.c.batch)
            .where(
                BATCHES.c.state == BatchState.CANCELLING.value,
                JOBS.c.state.in_([JobState.QUEUED.value, JobState.RUNNING.value]),
            )
            .limit(_AT_ONCE)
        )
        async with self._database.reading() as connection:
            return tuple((await connection.execute(query)).scalars().all())

    async def finish(self) -> tuple[Batch, ...]:
        """End batches that have nothing left to do, and write the messages that tell of it; those that ended."""
        query = select(BATCHES).where(BATCHES.c.state.in_(_LIVE), ~_has_lines(*_OPEN)).limit(_AT_ONCE)
        # Nothing is locked unless there is something to do, which is seldom.
        async with self._database.reading() as connection:
            if (await connection.execute(query)).first() is None:
                return ()
        now = self._clock.time()
        async with self._database.writing() as connection:
            rows = (await connection.execute(query.with_for_update(skip_locked=True))).all()
            ended = [_over(_batch(row), now) for row in rows]
            messages = []
            for batch in ended:
                changes = {"state": batch.state.value, "finished": batch.finished}
                await connection.execute(update(BATCHES).where(BATCHES.c.id == batch.id).values(changes))
                await connection.execute(delete(BATCH_INPUTS).where(BATCH_INPUTS.c.batch_id == batch.id))
                if batch.notify is not None:
                    body = self._compose(batch, await _standing(connection, batch.id))
                    messages.append(Delivery(new_message(), batch.id, batch.tenant, batch.notify.url, body, now, now))
            await insert_messages(connection, messages)
        return tuple(ended)

    async def delete(self, batch_id: str) -> bool:
        """Have a batch that is over forgotten: from now on nobody is shown it; False if there is none such."""
        over = (BATCHES.c.id == batch_id) & BATCHES.c.finished.is_not(None) & _SHOWN
        async with self._database.writing() as connection:
            changed = await connection.execute(update(BATCHES).where(over).values(state=BatchState.DELETED.value))
            return changed.rowcount > 0

    async def deleted(self) -> Batch | None:
        """One that was deleted and is not dropped yet."""
        query = select(BATCHES).where(BATCHES.c.state == BatchState.DELETED.value).order_by(BATCHES.c.touched).limit(1)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _batch(row)

    async def drop(self, batch: Batch, upto: int) -> None:
        """Forget the lines of a deleted batch up to number ``upto``, and itself with the last of them."""
        of = BATCH_LINES.c.batch_id == batch.id
        async with self._database.writing() as connection:
            await connection.execute(delete(BATCH_LINES).where(of, BATCH_LINES.c.number <= upto))
            if not (await connection.execute(select(exists().where(of)))).scalar_one():
                await _delete(connection, [batch.id])

    async def forget(self, finished_before: float, touched_before: float) -> int:
        """Delete some that were over before, or not accepted and nothing came of them since; how many."""
        old: Select[Any] = (
            select(BATCHES.c.id)
            .where(
                or_(
                    (BATCHES.c.finished < finished_before) & (BATCHES.c.state != BatchState.DELETED.value),
                    (BATCHES.c.state == BatchState.RECEIVING.value) & (BATCHES.c.touched < touched_before),
                )
            )
            .limit(1)
        )
        async with self._database.reading() as connection:
            if (await connection.execute(old)).first() is None:
                return 0
        async with self._database.writing() as connection:
            # One at a time: each may have many lines.
            ids = (await connection.execute(old.with_for_update(skip_locked=True))).scalars().all()
            await _delete(connection, ids)
        return len(ids)


def _coming_in(batch: Batch) -> ColumnElement[bool]:
    """That it is being received by whoever has begun this very one: another server may have begun it anew."""
    return (BATCHES.c.id == batch.id) & (BATCHES.c.created == batch.created) & (BATCHES.c.state == BatchState.RECEIVING.value)


def _taken_over() -> EngineFailure:
    return EngineFailure("The batch was taken over by another server; send it again.")


async def _end(connection: AsyncConnection, batch_id: str, number: int, state: LineState, ended: Ended) -> None:
    await _change(connection, batch_id, number, state=state.value, wanted=None, ended=msgspec.msgpack.encode(ended))


async def _change(connection: AsyncConnection, batch_id: str, number: int, **changes: Any) -> None:
    line = (BATCH_LINES.c.batch_id == batch_id) & (BATCH_LINES.c.number == number)
    await connection.execute(update(BATCH_LINES).where(line).values(changes))


async def _standing(connection: AsyncConnection, batch_id: str) -> Standing:
    lines = (
        select(BATCH_LINES.c.state, func.count().label("lines"), func.coalesce(func.sum(BATCH_LINES.c.work), 0.0).label("work"))
        .where(BATCH_LINES.c.batch_id == batch_id)
        .group_by(BATCH_LINES.c.state)
    )
    rows = (await connection.execute(lines)).all()
    running = select(func.count()).where(JOBS.c.batch == batch_id, JOBS.c.state == JobState.RUNNING.value)
    at_work = int((await connection.execute(running)).scalar_one())
    counts = {LineState(row.state): int(row.lines) for row in rows}
    return Standing(counts, at_work, int(sum(row.work for row in rows if row.state in _OPEN)))


async def _delete(connection: AsyncConnection, ids: Sequence[str]) -> None:
    for table in (BATCH_LINES, BATCH_INPUTS):
        await connection.execute(delete(table).where(table.c.batch_id.in_(ids)))
    await connection.execute(delete(BATCHES).where(BATCHES.c.id.in_(ids)))


def _has_lines(*states: str) -> Any:
    return exists().where(BATCH_LINES.c.batch_id == BATCHES.c.id, BATCH_LINES.c.state.in_(states))


def _over(batch: Batch, now: float) -> Batch:
    state = BatchState.FINISHED if batch.state is BatchState.RUNNING else BatchState.CANCELLED
    return replace(batch, state=state, finished=now)


def _columns(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "tenant": batch.tenant,
        "state": batch.state.value,
        "created": batch.created,
        "finished": batch.finished,
        "lines": batch.lines,
        "images": batch.images,
        "notify": None if batch.notify is None else msgspec.msgpack.encode(batch.notify),
    }


def _batch(row: Row[Any]) -> Batch:
    return Batch(
        id=row.id,
        tenant=row.tenant,
        state=BatchState(row.state),
        created=row.created,
        finished=row.finished,
        lines=row.lines,
        images=row.images,
        notify=None if row.notify is None else msgspec.msgpack.decode(row.notify, type=Notify),
    )


def _line_columns(batch_id: str, line: Line) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "number": line.number,
        "custom_id": line.custom_id,
        "state": LineState.WAITING.value,
        "images": line.wanted.order.images,
        "work": float(line.wanted.order.work),
        "wanted": zlib.compress(msgspec.msgpack.encode(line.wanted), _COMPRESSION),
    }


def _line(row: Row[Any]) -> Line:
    return Line(row.number, row.custom_id, msgspec.msgpack.decode(zlib.decompress(row.wanted), type=Wanted))
