"""What was spent, and what would be."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery

from pipelines.contract.errors import InvalidRequest
from server.access.limits import Allowances
from server.api.checks import number, whole
from server.api.documenting import READING, failures
from server.api.errors import Forbidden
from server.api.guard import SCOPE, caller_of, permitted, tenant_of
from server.api.native import obstacles
from server.api.native import usage_report as report
from server.api.native.bodies import NativeErrorBody
from server.api.native.generate import shown
from server.api.native.generating import Generation, generation
from server.api.native.reading import read
from server.api.native.usage_bodies import (
    Dollars,
    Estimate,
    EstimateRequest,
    Group,
    Obstacle,
    RoadEstimate,
    Seconds,
    UsageReport,
)
from server.api.native.usage_operations import Planned, Used
from server.api.pictures import Pictures
from server.catalog.catalog import Catalog
from server.catalog.pricing import Range
from server.domain.generation import LOCAL
from server.domain.key import Scope
from server.domain.spending import day_of, month_of
from server.fleet.fleet import Fleet
from server.gateway.limits import limits_of
from server.gateway.planning import Forecast, Plan, forecasts, gpu_hours
from server.gateway.treasury import Treasury
from server.jobs.service import draw_seed, new_id

AnyRequest = Request[Any, Any, Any]

EVERYBODY = "*"
_MOST_DAYS = 3700
_MOST_VARIANTS, _MOST_RETRIES, _MOST_IMAGES = 1000, 100.0, 1_000_000_000


@get("/api/usage", opt={SCOPE: Scope.JOBS_READ}, operation_class=Used, responses=failures(NativeErrorBody, (400, *READING)))
async def usage(
    request: AnyRequest,
    *,
    catalog: NamedDependency[Catalog],
    treasury: NamedDependency[Treasury],
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    group: FromQuery[Group] = Group.MONTH,
    tenant: FromQuery[str | None] = None,
) -> Response[Any]:
    """What was used, by road and model. ``since`` and ``until`` (dates, or Unix times) leave out; absent: this month.

    With the scope ``admin``, ``tenant`` names another, or ``*`` for all. With ``Accept: text/csv`` the lines are a table.
    """
    whose = _tenant(request, tenant)
    now = treasury.now
    first = report.day(since, report.first_of_month(now), "since")
    after = report.day(until, max(first, day_of(now)) + 1, "until")
    if not first <= after <= first + _MOST_DAYS:
        msg = f"'until' must be after 'since', by {_MOST_DAYS} days at most."
        raise InvalidRequest(msg, param="until")
    rows = await treasury.used(first, after, None if whose == EVERYBODY else whose, apart=report.apart(first, after, group))
    headers = {"Cache-Control": "no-store"}
    # Of many tenants, or many days, this takes a while.
    found, compared = await asyncio.to_thread(lambda: (report.lines(rows, group), report.compared(rows)))
    if "text/csv" in request.headers.get("accept", "").lower():
        return Response(report.as_csv(found), media_type="text/csv", headers=headers)
    purses = await treasury.balances("" if whose == EVERYBODY else whose)
    limits = dict.fromkeys(limit for upstream in (*catalog.prices.upstreams, "") for limit in limits_of(catalog, upstream, whose))
    wanted = "" if whose == EVERYBODY else whose
    mine = [limit for limit in limits if limit.purse.tenant == wanted]
    budgets = report.budgets(mine, purses, month_of(now))
    whole_ = UsageReport(report.iso(first), report.iso(after), found, compared, budgets)
    return Response(whole_, headers=headers)


@post(
    "/api/estimate",
    status_code=HTTPStatus.OK,
    operation_class=Planned,
    responses=failures(NativeErrorBody, (400, 404, 413, *READING, 503)),
)
async def plan(
    request: AnyRequest,
    *,
    catalog: NamedDependency[Catalog],
    pictures: NamedDependency[Pictures],
    fleet: NamedDependency[Fleet],
    treasury: NamedDependency[Treasury],
    allowances: NamedDependency[Allowances],
) -> Estimate:
    """What a request would cost, and how long it would take, on each road, and what stands in its way; nothing is made.

    Pictures made: count x ``variants`` x (1 + ``retries``), each at the price of one.
    """
    sent = await read(request, EstimateRequest)
    body = sent.body
    wanted = Plan(
        whole(body.variants, "variants", 1, 1, _MOST_VARIANTS),
        number(body.retries, "retries", 0.0, 0.0, _MOST_RETRIES),
        None if body.images_per_month is None else whole(body.images_per_month, "images_per_month", 0, 0, _MOST_IMAGES),
    )
    supplied, tenant = await shown(request, sent, pictures), tenant_of(request)

    def translated(known: Catalog) -> Generation:
        return generation(body, known, supplied, job_id=new_id(), tenant=tenant, draw=draw_seed, followed=True)

    asked, found = obstacles.conceived(body, catalog, translated)
    try:
        permitted(request, asked.order)
    except Forbidden as error:
        found.append(obstacles.of_key(error))
    order, recent = asked.order, await treasury.recent()
    models = {name: catalog.asked(upstream, order.request.model) for name, upstream in catalog.upstreams.items()}
    roads = forecasts(catalog.prices, order.request, models, quality=body.quality, rate=fleet.rate, recent=recent)
    images = len(order.request.seeds) * wanted.factor
    month = None if wanted.images_per_month is None else wanted.images_per_month * wanted.factor
    amount = obstacles.Amount(images, month)
    found += obstacles.of_roads(caller_of(request), order, catalog.policy(tenant).routing.policy, roads)
    found += obstacles.of_quota(await allowances.left(tenant), amount, treasury.now)
    found += await _budgets(catalog, treasury, tenant, roads, amount)
    return Estimate(
        images=round(images, 6),
        month_images=None if month is None else round(month, 6),
        roads=[_road(each, images, month, fleet.wait_seconds() if each.road == LOCAL else 0.0) for each in roads],
        obstacles=found,
        prices_as_of=catalog.prices.as_of,
        warnings=list(asked.warnings),
    )


async def _budgets(
    catalog: Catalog, treasury: Treasury, tenant: str, roads: Iterable[Forecast], amount: obstacles.Amount
) -> list[Obstacle]:
    """What the budgets do not cover; our own workers have none."""
    limits = {each: limits_of(catalog, each.road, tenant) for each in roads if each.road != LOCAL}
    if not any(limits.values()):
        return []
    balances = {**await treasury.balances(), **await treasury.balances(tenant)}
    return [
        obstacle for each, mine in limits.items() for obstacle in obstacles.of_budgets(each, mine, balances, amount, treasury.now)
    ]


def _tenant(request: AnyRequest, asked: str | None) -> str:
    caller = caller_of(request)
    if asked in (None, caller.tenant):
        return caller.tenant
    if not caller.may(Scope.ADMIN):
        msg = f"This key shows the usage of {caller.tenant!r} only; others take one with the scope {Scope.ADMIN.value!r}."
        raise Forbidden(msg, param="tenant")
    return asked or caller.tenant


def _road(each: Forecast, images: float, month: float | None, wait: float) -> RoadEstimate:
    hours = None if month is None else gpu_hours(each, month)
    return RoadEstimate(
        road=each.road,
        model=each.model,
        usd_per_image=_dollars(each.each, 1),
        usd=_dollars(each.each, images),
        month_usd=None if month is None else _dollars(each.each, month),
        month_gpu_hours=None if hours is None else round(hours, 4),
        seconds=None if each.work is None else Seconds(round(wait, 3), round(each.work * images, 3)),
        why=each.why,
    )


def _dollars(each: Range | None, times: float) -> Dollars | None:
    return None if each is None else Dollars(round(each.low * times, 9), round(each.high * times, 9))
