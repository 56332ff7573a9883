"""Jobs that nobody waits for: accepted, looked at, followed, cancelled, forgotten."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream as EventStream

from pipelines.contract.errors import InvalidRequest
from pipelines.contract.request import Priority
from server.api.disclosing import PICTURES
from server.api.documenting import READING, WORKING, failures
from server.api.errors import UnknownJob
from server.api.guard import SCOPE, tenant_of
from server.api.idempotency import chosen_id, tried_before
from server.api.links import Links, gathered
from server.api.native import paging
from server.api.native.bodies import JobAccepted, JobList, JobRequest, JobView, NativeErrorBody, Notice
from server.api.native.following import followed
from server.api.native.generate import understood
from server.api.native.generating import noted
from server.api.native.operations import Enqueue, Follow
from server.api.native.reading import read
from server.api.native.standing import Standing
from server.api.pictures import Pictures
from server.api.watching import STREAM_HEADERS
from server.catalog.catalog import Catalog
from server.domain.job import Job, JobState, Order
from server.domain.key import Scope
from server.domain.ports.assets import AssetStore
from server.domain.ports.jobs import JobFilter
from server.domain.webhook import Notify
from server.egress.urls import check_url
from server.jobs.service import JobService

AnyRequest = Request[Any, Any, Any]


@post("/api/jobs", status_code=202, operation_class=Enqueue, responses=failures(NativeErrorBody, WORKING))
async def enqueue(
    request: AnyRequest,
    catalog: NamedDependency[Catalog],
    jobs: NamedDependency[JobService],
    pictures: NamedDependency[Pictures],
    links: NamedDependency[Links],
) -> Response[JobAccepted]:
    """Accept a request for good: it will be done, whatever becomes of this process. ``Location`` is where to look."""
    sent = await read(request, JobRequest)
    if sent.body.response_format == "b64":
        msg = "'response_format' can be 'url' only: the answer to a job that is over has links."
        raise InvalidRequest(msg, param="response_format")
    job_id = chosen_id(request)
    # With a key the id was chosen before: of a request whose server died at it, the job may be there. It was let in then, and
    # neither limits nor what has become of models and pictures since are asked again.
    known = await jobs.get(job_id) if tried_before(request) else None
    if known is not None:
        return _accepted(job_id, noted(sent.body, known.order))
    asked = await understood(request, sent, catalog, pictures, followed=True, job_id=job_id)
    order = _kept(asked.order, sent.body, links.base(request))
    await jobs.enqueue(order)
    return _accepted(job_id, asked.warnings)


@get("/api/jobs", opt={SCOPE: Scope.JOBS_READ}, responses=failures(NativeErrorBody, (400, *READING)))
async def page(
    request: AnyRequest,
    *,
    standing: NamedDependency[Standing],
    jobs: NamedDependency[JobService],
    states: Annotated[list[JobState] | None, QueryParameter(name="state")] = None,
    model: FromQuery[str | None] = None,
    batch: FromQuery[str | None] = None,
    since: FromQuery[float | None] = None,
    until: FromQuery[float | None] = None,
    limit: FromQuery[int] = paging.USUAL,
    cursor: FromQuery[str | None] = None,
) -> JobList:
    """The caller's jobs, the newest first. ``since`` and ``until`` are Unix times of creation; ``state`` may be repeated."""
    paging.check_limit(limit)
    wanted = JobFilter(tenant_of(request), tuple(states or ()), model, since, until, batch)
    found = await jobs.page(wanted, paging.after(cursor), limit)
    last = found.jobs[-1] if found.more else None
    return JobList(
        data=await gathered(standing.view(request, job) for job in found.jobs),
        next=None if last is None else paging.cursor(last.created, last.id),
    )


@get(
    "/api/jobs/{job_id:str}",
    opt={SCOPE: Scope.JOBS_READ, PICTURES: True},
    responses=failures(NativeErrorBody, (400, 404, *READING)),
)
async def job(
    request: AnyRequest, job_id: FromPath[str], jobs: NamedDependency[JobService], standing: NamedDependency[Standing]
) -> Response[JobView]:
    """One job as it stands."""
    found = await _own(request, jobs, job_id)
    return Response(await standing.view(request, found), headers={"Cache-Control": "no-store"})


@get(
    "/api/jobs/{job_id:str}/events",
    opt={SCOPE: Scope.JOBS_READ, PICTURES: True},
    operation_class=Follow,
    responses=failures(NativeErrorBody, (400, 404, *READING)),
)
async def events(
    request: AnyRequest, job_id: FromPath[str], jobs: NamedDependency[JobService], standing: NamedDependency[Standing]
) -> EventStream:
    """What happens to a job, as server-sent events, to its end. ``Last-Event-ID`` goes on where a connection broke."""
    found = await _own(request, jobs, job_id)
    lines = followed(request, found, jobs, standing, request.headers.get("last-event-id"))
    return EventStream(lines, media_type="text/event-stream", headers=STREAM_HEADERS)


@post("/api/jobs/{job_id:str}/cancel", status_code=200, responses=failures(NativeErrorBody, (400, 404, *READING, 507)))
async def cancel(
    request: AnyRequest, job_id: FromPath[str], jobs: NamedDependency[JobService], standing: NamedDependency[Standing]
) -> Response[JobView]:
    """Cancel a job; one that runs stops at its next step. Nothing happens to one that is over."""
    await _own(request, jobs, job_id)
    await jobs.revoke(job_id)
    return Response(await standing.view(request, await _own(request, jobs, job_id)), headers={"Cache-Control": "no-store"})


@delete("/api/jobs/{job_id:str}", responses=failures(NativeErrorBody, (400, 404, *READING, 507)))
async def forget(
    request: AnyRequest, job_id: FromPath[str], jobs: NamedDependency[JobService], store: NamedDependency[AssetStore]
) -> None:
    """Forget a job that is over, and its pictures."""
    found = await _own(request, jobs, job_id)
    if not found.state.final:
        msg = f"The job is {found.state.value}; cancel it first."
        raise InvalidRequest(msg, param="job_id")
    # In this order: whoever dies in between leaves a job that can be deleted again, and no picture without one.
    await store.discard(found.order.tenant, job_id)
    await jobs.delete(job_id)


def _accepted(job_id: str, warnings: Sequence[Notice]) -> Response[JobAccepted]:
    headers = {"Location": f"/api/jobs/{job_id}"}
    return Response(JobAccepted(job_id, list(warnings)), status_code=HTTPStatus.ACCEPTED, headers=headers)


async def _own(request: AnyRequest, jobs: JobService, job_id: str) -> Job:
    """The caller's job of that id; another's does not exist."""
    found = await jobs.get(job_id)
    if found is None or found.order.tenant != tenant_of(request):
        msg = f"There is no job {job_id!r}."
        raise UnknownJob(msg, param="job_id")
    return found


def _kept(order: Order, body: JobRequest, base: str) -> Order:
    if body.webhook is not None:
        check_url(body.webhook, "webhook")
        order = msgspec.structs.replace(order, notify=Notify(body.webhook, base))
    urgency = Priority.BULK if body.priority == "bulk" else Priority.NORMAL
    request = msgspec.structs.replace(order.request, priority=urgency)
    return msgspec.structs.replace(order, request=request, priority=urgency)
