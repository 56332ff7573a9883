"""Many requests as one: handed in as a file, looked at, cancelled, and their results as a file."""

import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from pipelines.contract.errors import InvalidRequest, ShuttingDown
from server.api.documenting import READING, failures
from server.api.errors import UnknownBatch
from server.api.guard import SCOPE, tenant_of
from server.api.idempotency import BY_ITSELF, Replaying, chosen_id, tried_before
from server.api.links import Links, gathered
from server.api.native import paging
from server.api.native.batch_bodies import BatchCounts, BatchErrorBody, BatchList, BatchResult, BatchView
from server.api.native.batch_files import received
from server.api.native.batch_intake import Intake
from server.api.native.batch_operations import HandIn, Results
from server.api.native.bodies import NativeErrorBody
from server.api.native.standing import shown, told
from server.catalog.catalog import Catalog
from server.domain.batch import Batch, BatchState, LineState, Result, Standing
from server.domain.key import Scope
from server.domain.ports.batches import BatchRepository
from server.jobs.feeder import Feeder
from server.jobs.service import JobService

AnyRequest = Request[Any, Any, Any]

_ID = re.compile(r"[0-9a-f]{24}")
_AT_ONCE = 256
_MOST_AFTER = (1 << 31) - 1
_LIVE = {"Cache-Control": "no-store"}


@post(
    "/api/batches",
    status_code=HTTPStatus.ACCEPTED,
    opt={BY_ITSELF: True},
    operation_class=HandIn,
    responses={**failures(NativeErrorBody, (404, 413, 429, 503, *READING)), **failures(BatchErrorBody, (400,))},
)
async def create(
    request: AnyRequest,
    *,
    catalog: NamedDependency[Catalog],
    batches: NamedDependency[BatchRepository],
    intake: NamedDependency[Intake],
    feeder: NamedDependency[Feeder],
    jobs: NamedDependency[JobService],
    links: NamedDependency[Links],
    replaying: NamedDependency[Replaying],
) -> Response[Any]:
    """Accept a file of requests for good, whole or not at all; they are done behind all other work."""
    async with received(request) as sent:
        replayed = await replaying.begin(request, sent.digest)
        if replayed is not None:
            return replayed
        batch_id = chosen_id(request)
        batch = await batches.get(batch_id) if tried_before(request) else None
        if batch is None:
            if jobs.draining:
                msg = "The server is shutting down and takes no new work."
                raise ShuttingDown(msg, retry_after=5.0)
            batch = await intake.take(request, sent, batch_id=batch_id, catalog=catalog, base=links.base(request))
    feeder.look()
    view = _view(batch, await batches.standing(batch.id), jobs)
    return Response(view, status_code=HTTPStatus.ACCEPTED, headers={"Location": f"/api/batches/{batch.id}"})


@get("/api/batches", opt={SCOPE: Scope.JOBS_READ}, responses=failures(NativeErrorBody, (400, *READING)))
async def page(
    request: AnyRequest,
    batches: NamedDependency[BatchRepository],
    jobs: NamedDependency[JobService],
    limit: FromQuery[int] = paging.USUAL,
    cursor: FromQuery[str | None] = None,
) -> Response[BatchList]:
    """The caller's batches, the newest first."""
    paging.check_limit(limit)
    found = await batches.page(tenant_of(request), paging.after(cursor), limit)
    last = found.batches[-1] if found.more else None
    views = [_view(batch, await batches.standing(batch.id), jobs) for batch in found.batches]
    listed = BatchList(views, None if last is None else paging.cursor(last.created, last.id))
    return Response(listed, headers=_LIVE)


@get("/api/batches/{batch_id:str}", opt={SCOPE: Scope.JOBS_READ}, responses=failures(NativeErrorBody, (400, 404, *READING)))
async def batch(
    request: AnyRequest,
    batch_id: FromPath[str],
    batches: NamedDependency[BatchRepository],
    jobs: NamedDependency[JobService],
) -> Response[BatchView]:
    """One batch as it stands."""
    found = await _own(request, batches, batch_id)
    return Response(_view(found, await batches.standing(found.id), jobs), headers=_LIVE)


@get(
    "/api/batches/{batch_id:str}/results",
    opt={SCOPE: Scope.JOBS_READ},
    operation_class=Results,
    responses=failures(NativeErrorBody, (400, 404, *READING)),
)
async def results(
    request: AnyRequest,
    batch_id: FromPath[str],
    batches: NamedDependency[BatchRepository],
    links: NamedDependency[Links],
    after: FromQuery[int] = 0,
) -> Stream:
    """What became of its lines, as JSONL in the order of the file, up to the first line that is not over.

    ``after``: only lines with a higher number; send that of the last line you have to go on from there.
    """
    if not 0 <= after <= _MOST_AFTER:
        msg = f"'after' must be from 0 to {_MOST_AFTER}, not {after}."
        raise InvalidRequest(msg, param="after")
    found = await _own(request, batches, batch_id)
    base = links.base(request)

    async def told_of() -> AsyncIterator[bytes]:
        last = after
        while some := await batches.results(found.id, last, _AT_ONCE):
            last = some[-1].number
            yield b"".join(
                msgspec.json.encode(line) + b"\n" for line in await gathered(_result(each, links, base) for each in some)
            )

    return Stream(told_of(), media_type="application/x-ndjson", headers=_LIVE)


@post("/api/batches/{batch_id:str}/cancel", status_code=200, responses=failures(NativeErrorBody, (400, 404, *READING)))
async def cancel(
    request: AnyRequest,
    batch_id: FromPath[str],
    batches: NamedDependency[BatchRepository],
    feeder: NamedDependency[Feeder],
    jobs: NamedDependency[JobService],
) -> Response[BatchView]:
    """Cancel a batch; lines that run stop at their next step. Nothing happens to one that is over."""
    await _own(request, batches, batch_id)
    await batches.cancel(batch_id)
    feeder.look()
    found = await _own(request, batches, batch_id)
    return Response(_view(found, await batches.standing(found.id), jobs), headers=_LIVE)


@delete("/api/batches/{batch_id:str}", responses=failures(NativeErrorBody, (400, 404, *READING)))
async def forget(
    request: AnyRequest, batch_id: FromPath[str], batches: NamedDependency[BatchRepository], feeder: NamedDependency[Feeder]
) -> None:
    """Forget a batch that is over, at once; its jobs and all pictures that they made go in the moments after."""
    found = await _own(request, batches, batch_id)
    if not await batches.delete(batch_id):
        msg = f"The batch is {found.state.value}; cancel it first."
        raise InvalidRequest(msg, param="batch_id")
    feeder.look()


async def _own(request: AnyRequest, batches: BatchRepository, batch_id: str) -> Batch:
    """The caller's batch of that id; another's does not exist."""
    found = await batches.get(batch_id) if _ID.fullmatch(batch_id) else None
    if found is None or found.tenant != tenant_of(request):
        msg = f"There is no batch {batch_id!r}."
        raise UnknownBatch(msg, param="batch_id")
    return found


def _view(batch: Batch, standing: Standing, jobs: JobService) -> BatchView:
    over = batch.lines - standing.count(LineState.WAITING, LineState.QUEUED)
    running = batch.state is BatchState.RUNNING
    return BatchView(
        id=batch.id,
        state=batch.state,
        created=batch.created,
        finished=batch.finished,
        lines=batch.lines,
        images=batch.images,
        counts=BatchCounts(
            waiting=standing.count(LineState.WAITING),
            queued=max(0, standing.count(LineState.QUEUED) - standing.running),
            running=standing.running,
            succeeded=standing.count(LineState.SUCCEEDED),
            failed=standing.count(LineState.FAILED),
            cancelled=standing.count(LineState.CANCELLED),
            expired=standing.count(LineState.EXPIRED),
        ),
        progress=round(over / batch.lines, 4),
        estimated_end=round(jobs.begins(standing.work), 1) if running else None,
        webhook=None if batch.notify is None else batch.notify.url,
        results=f"/api/batches/{batch.id}/results",
    )


async def _result(result: Result, links: Links, base: str) -> BatchResult:
    ended = result.ended
    return BatchResult(
        line=result.number,
        custom_id=result.custom_id,
        job=ended.job_id,
        state=result.state,
        images=await shown(ended.assets, lambda asset: links.absolute(base, asset)),
        error=None if ended.error is None else told(ended.error),
    )
