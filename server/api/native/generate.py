"""POST /api/generate: the one address where everything can be said."""

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import Stream as EventStream

from pipelines.contract.errors import InvalidRequest
from server.api.caching import told
from server.api.disclosing import PICTURES
from server.api.documenting import READING, WORKING, failures
from server.api.guard import permitted, tenant_of
from server.api.idempotency import refuse_key
from server.api.native import generating
from server.api.native.answers import Results, streamed
from server.api.native.bodies import Adapters, GenerateRequest, NativeErrorBody
from server.api.native.operations import Generate
from server.api.native.reading import Sent, read
from server.api.orders import Supplied
from server.api.pictures import Pictures
from server.api.waiting import run_to_end
from server.api.watching import STREAM_HEADERS
from server.catalog.catalog import Catalog
from server.jobs.service import JobService, draw_seed, new_id

AnyRequest = Request[Any, Any, Any]


@post(
    "/api/generate",
    opt={PICTURES: True},
    status_code=200,
    operation_class=Generate,
    responses=failures(NativeErrorBody, WORKING),
)
async def generate(
    request: AnyRequest,
    catalog: NamedDependency[Catalog],
    jobs: NamedDependency[JobService],
    pictures: NamedDependency[Pictures],
    results: NamedDependency[Results],
) -> Response[Any]:
    """Make images. With ``Accept: text/event-stream`` the answer is a stream of events while they are made."""
    stream = "text/event-stream" in request.headers.get("accept", "").lower()
    if stream:
        refuse_key(request)
    sent = await read(request, GenerateRequest)
    asked = await understood(request, sent, catalog, pictures, followed=stream)
    inline = sent.body.response_format == "b64"
    if stream:
        job, events = await streamed(request, asked, jobs, results, inline=inline)
        return EventStream(events, media_type="text/event-stream", headers={**STREAM_HEADERS, **told(job)})
    job = await run_to_end(request, jobs, asked.order)
    return Response(await results.whole(request, asked, job, inline=inline), headers=told(job))


async def understood(
    request: AnyRequest,
    sent: Sent[Any],
    catalog: Catalog,
    pictures: Pictures,
    *,
    followed: bool = False,
    job_id: str | None = None,
) -> generating.Generation:
    """The order that was sent, with its pictures; raises for what cannot be, and for what the caller may not.

    ``followed``: somebody can see previews. ``job_id`` is a new one if it is left out.
    """
    supplied, tenant = await shown(request, sent, pictures), tenant_of(request)
    job_id = job_id or new_id()
    asked = generating.generation(sent.body, catalog, supplied, job_id=job_id, tenant=tenant, draw=draw_seed, followed=followed)
    return msgspec.structs.replace(asked, order=await pictures.trimmed(permitted(request, asked.order)))


async def shown(request: AnyRequest, sent: Sent[Any], pictures: Pictures) -> Supplied:
    """The pictures of what was sent."""
    parts = {name: data for name, data in sent.parts.items() if name not in ("image", "mask")}
    source = pictures.source(tenant_of(request), parts)
    supplied = await source.supplied(sent.body, sent.image, sent.mask, drawn_mask=True)
    if source.unused:
        msg = f"No option names the file {source.unused[0]!r}."
        raise InvalidRequest(msg, param=source.unused[0])
    return supplied


@get("/api/adapters", responses=failures(NativeErrorBody, (400, 404, *READING)))
async def adapters(catalog: NamedDependency[Catalog], model: FromQuery[str | None] = None) -> Adapters:
    """The LoRAs, control networks, IP-Adapters and upscalers of models.yaml; ``model`` leaves only those made for it."""
    family = None if model is None else catalog.card(model).family
    return Adapters(
        loras=[card for card in catalog.loras.values() if family in (None, card.family)],
        controlnets=[card for card in catalog.controlnets.values() if family in (None, card.family)],
        ip_adapters=[card for card in catalog.ip_adapters.values() if family in (None, card.family)],
        upscalers=list(catalog.upscalers.values()),
    )
