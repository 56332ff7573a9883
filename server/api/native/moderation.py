"""GET /api/moderation, and what passed: what moderation decided, for the operator."""

from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from pipelines.contract.errors import InvalidRequest
from server.api.checks import position
from server.api.documenting import READING, failures
from server.api.guard import SCOPE
from server.api.native.bodies import NativeErrorBody
from server.domain.decision import Decision, DecisionFilter, Passed
from server.domain.key import Scope
from server.domain.ports.decisions import DecisionRepository
from server.domain.verdict import Action, Stage

_MOST, _USUAL = 100, 20
_MOST_PASSED, _USUAL_PASSED = 1000, 100


class DecisionList(msgspec.Struct, frozen=True):
    """One page of decisions, the newest first."""

    data: list[Decision]
    next: str | None
    """`cursor` of the page after this one; null on the last."""


class PassedList(msgspec.Struct, frozen=True):
    """What was simply let pass, the newest days first."""

    data: list[Passed]


@get("/api/moderation", opt={SCOPE: Scope.ADMIN}, responses=failures(NativeErrorBody, (400, *READING)))
async def decisions(
    request: Request[Any, Any, Any],  # noqa: ARG001 - the guard's
    *,
    audit: NamedDependency[DecisionRepository],
    tenant: FromQuery[str | None] = None,
    action: FromQuery[Action | None] = None,
    stage: FromQuery[Stage | None] = None,
    job: FromQuery[str | None] = None,
    limit: FromQuery[int] = _USUAL,
    cursor: FromQuery[str | None] = None,
) -> Response[DecisionList]:
    """Every decision of every tenant that was not simply to let something pass, the newest first."""
    _check(limit, _MOST)
    found = await audit.page(DecisionFilter(tenant, action, stage, job), position(cursor), limit)
    last = found.decisions[-1] if found.more else None
    page = DecisionList(list(found.decisions), None if last is None else f"{last.time!r}_{last.id}")
    return Response(page, headers={"Cache-Control": "no-store"})


@get("/api/moderation/passed", opt={SCOPE: Scope.ADMIN}, responses=failures(NativeErrorBody, (400, *READING)))
async def passed(
    request: Request[Any, Any, Any],  # noqa: ARG001 - the guard's
    *,
    audit: NamedDependency[DecisionRepository],
    tenant: FromQuery[str | None] = None,
    limit: FromQuery[int] = _USUAL_PASSED,
) -> Response[PassedList]:
    """How often something was simply let pass, by day and stage: of one tenant, or of all together."""
    _check(limit, _MOST_PASSED)
    return Response(PassedList(list(await audit.passed(tenant, limit))), headers={"Cache-Control": "no-store"})


def _check(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        msg = f"'limit' must be from 1 to {most}, not {limit}."
        raise InvalidRequest(msg, param="limit")
