"""POST /api/route: what would be done with a request, and why."""

from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency

from server.api.documenting import failures
from server.api.native.bodies import GenerateRequest, NativeErrorBody, RoadView, RouteAnswer
from server.api.native.generate import understood
from server.api.native.operations import Consider
from server.api.native.reading import read
from server.api.pictures import Pictures
from server.catalog.catalog import Catalog
from server.domain.call import Call
from server.domain.job import Order
from server.gateway.routed import Explained, Routed


@post(
    "/api/route",
    status_code=200,
    operation_class=Consider,
    responses=failures(NativeErrorBody, (400, 401, 403, 404, 413, 500, 502, 503)),
)
async def route(
    request: Request[Any, Any, Any],
    catalog: NamedDependency[Catalog],
    pictures: NamedDependency[Pictures],
    routed: NamedDependency[Routed],
) -> RouteAnswer:
    """Which road a request would take, and why; nothing is made. The body is that of POST /api/generate."""
    asked = await understood(request, await read(request, GenerateRequest), catalog, pictures, followed=True)
    return _answer(routed.explain(asked.order.request, _call(asked.order)))


def _call(order: Order) -> Call:
    return Call(
        order.request.id,
        order.tenant,
        order.priority,
        road=order.road,
        cards=order.cards,
        wishes=order.wishes,
        delivery=order.delivery,
    )


def _answer(known: Explained) -> RouteAnswer:
    need, plan = known.need, known.plan
    order = [step.label for step in plan.steps]
    return RouteAnswer(
        needs_text=need.needs_text,
        score=need.score,
        reasons=list(need.reasons),
        literals=list(need.literals),
        route=order[0],
        why=list(plan.reasons),
        policy=known.rules.policy.value,
        verify=plan.verify,
        roads=[
            RoadView(
                road=each.label,
                can=each.able,
                lacking=list(each.lacking),
                wait_seconds=round(each.wait_seconds, 1),
                place=order.index(each.label) + 1 if each.label in order else None,
            )
            for each in known.facts
        ],
    )
