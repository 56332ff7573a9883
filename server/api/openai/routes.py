"""The addresses of the OpenAI Images dialect."""

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Stream as EventStream

from server.api.bodies import from_json
from server.api.caching import told
from server.api.disclosing import PICTURES
from server.api.documenting import READING, WORKING, failures
from server.api.guard import permitted, tenant_of
from server.api.idempotency import refuse_key
from server.api.openai import translate
from server.api.openai.answers import Answers
from server.api.openai.forms import read_edit
from server.api.openai.operations import Edits, Generations
from server.api.openai.schemas import FailureBody, GenerateBody, Model, ModelList
from server.api.openai.stream import Kind, Stream
from server.api.pictures import Pictures
from server.api.roads import ROUTE_HEADER, route_headers
from server.api.waiting import run_to_end
from server.api.watching import STREAM_HEADERS
from server.catalog.catalog import Catalog
from server.jobs.service import JobService, draw_seed, new_id

AnyRequest = Request[Any, Any, Any]


@post(
    "/v1/images/generations",
    opt={PICTURES: True},
    status_code=200,
    operation_class=Generations,
    responses=failures(FailureBody, WORKING),
)
async def generations(
    request: AnyRequest,
    catalog: NamedDependency[Catalog],
    jobs: NamedDependency[JobService],
    pictures: NamedDependency[Pictures],
    answers: NamedDependency[Answers],
) -> Response[Any]:
    """Make images from a prompt."""
    body = from_json(await request.body(), GenerateBody)
    tenant = tenant_of(request)
    supplied = await pictures.source(tenant).supplied(body, None, None)
    asked = translate.generation(body, catalog, supplied, job_id=new_id(), tenant=tenant, draw=draw_seed)
    asked = msgspec.structs.replace(asked, order=permitted(request, asked.order))
    return await _answer(request, asked, "image_generation", jobs, answers)


@post(
    "/v1/images/edits",
    opt={PICTURES: True},
    status_code=200,
    operation_class=Edits,
    responses=failures(FailureBody, WORKING),
)
async def edits(
    request: AnyRequest,
    catalog: NamedDependency[Catalog],
    jobs: NamedDependency[JobService],
    pictures: NamedDependency[Pictures],
    answers: NamedDependency[Answers],
) -> Response[Any]:
    """Make images from a picture and a prompt; with a mask, only where it is transparent."""
    sent = await read_edit(request)
    tenant = tenant_of(request)
    supplied = await pictures.source(tenant, sent.parts).supplied(sent.body, sent.image, sent.mask)
    asked = translate.edit(sent.body, catalog, supplied, job_id=new_id(), tenant=tenant, draw=draw_seed)
    asked = msgspec.structs.replace(asked, order=await pictures.trimmed(permitted(request, asked.order)))
    return await _answer(request, asked, "image_edit", jobs, answers)


@get("/v1/models", responses=failures(FailureBody, READING))
async def models(catalog: NamedDependency[Catalog]) -> ModelList:
    """Every model of the catalog, and the upstreams with theirs."""
    return ModelList([_model(name, catalog.card(name).owned_by) for name in catalog.listed])


@get("/v1/models/{model_id:path}", responses=failures(FailureBody, (400, 404, *READING)))
async def model(model_id: FromPath[str], catalog: NamedDependency[Catalog]) -> Model:
    """One model, by its id or by a name that clients use for it."""
    name = model_id.lstrip("/")
    return _model(name, catalog.card(name).owned_by)


async def _answer(request: AnyRequest, asked: translate.Asked, kind: Kind, jobs: JobService, answers: Answers) -> Response[Any]:
    if asked.stream:
        refuse_key(request)
        job, events = await Stream(asked, kind, jobs, answers).begin()
        # The answer begins before the router has chosen: there `auto` says so.
        headers = {**STREAM_HEADERS, **told(job), ROUTE_HEADER: asked.order.road}
        return EventStream(events, media_type="text/event-stream", headers=headers)
    job = await run_to_end(request, jobs, asked.order)
    headers = {**told(job), **route_headers(job.route)}
    return Response(await answers.images(request, asked, job), headers=headers)


def _model(name: str, owner: str) -> Model:
    return Model(id=name, created=0, owned_by=owner)
