"""Is it alive, is it ready, what has it done: for load balancers, people and Prometheus."""

from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from server.catalog.current import CurrentCatalog
from server.fleet.fleet import Fleet
from server.fleet.health import WorkerHealth
from server.gateway.moderation.bench import Bench
from server.gateway.roads import Roads
from server.gateway.treasury import BudgetStanding, Treasury
from server.jobs.service import JobService
from server.providers.road import UpstreamHealth
from server.telemetry.metrics import Metrics


class Readiness(msgspec.Struct, frozen=True):
    """Whether a request for the default model would be worked on at once, and why not."""

    ready: bool
    reason: str
    model: str
    loading: float | None
    """How much of the default model is loaded, 0 to 1, where it is being loaded."""
    workers: tuple[WorkerHealth, ...]
    catalog_error: str | None = None
    """Why models.yaml, as it stands now, is refused; the models before its last edit are served."""
    moderation: tuple[str, ...] = ()
    """What tenants' policies ask for and cannot have as things stand."""
    upstreams: tuple[UpstreamHealth, ...] = ()
    """Other people's services that requests may go to, with their models that come to an end. They decide nothing here."""
    budgets: tuple[BudgetStanding, ...] = ()
    """How the upstreams' monthly budgets stood a moment ago."""


@get("/healthz", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """The process is up and its event loop turns."""
    return {"status": "ok"}


@get("/readyz", include_in_schema=False)
async def readyz(
    *,
    current: NamedDependency[CurrentCatalog],
    fleet: NamedDependency[Fleet],
    jobs: NamedDependency[JobService],
    bench: NamedDependency[Bench],
    roads: NamedDependency[Roads],
    treasury: NamedDependency[Treasury],
) -> Response[Readiness]:
    """200 once a worker is up that has loaded its preloaded models and can serve the default one."""
    found = judge(current.catalog.default_model, fleet.health(), draining=jobs.draining, catalog_error=current.status.error)
    policies = [policy.moderation for policy in current.catalog.policies.values()]
    found = msgspec.structs.replace(
        found, moderation=bench.problems(policies), upstreams=roads.health(), budgets=treasury.standing()
    )
    status = HTTPStatus.OK if found.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(found, status_code=status, headers={"Cache-Control": "no-store"})


@get("/metrics", include_in_schema=False)
async def metrics(metrics: NamedDependency[Metrics]) -> Response[bytes]:
    """Prometheus' text form."""
    return Response(metrics.render(), headers={"Content-Type": metrics.content_type})


def judge(model: str, workers: Sequence[WorkerHealth], *, draining: bool, catalog_error: str | None = None) -> Readiness:
    """The verdict on ``workers``: pure."""
    fractions = [worker.loading[model].fraction for worker in workers if model in worker.loading]
    loading = max(fractions, default=None)
    ready = not draining and any(worker.serves(model) for worker in workers)
    return Readiness(
        ready=ready,
        reason="ready" if ready else _why(model, workers, loading, draining=draining),
        model=model,
        loading=loading,
        workers=tuple(workers),
        catalog_error=catalog_error,
    )


def _why(model: str, workers: Sequence[WorkerHealth], loading: float | None, *, draining: bool) -> str:
    if draining:
        return "The server is shutting down."
    if loading is not None:
        return f"Model {model!r} is loading ({loading:.0%})."
    for worker in workers:
        if model in worker.failed:
            return f"Model {model!r} could not be loaded: {worker.failed[model]}"
    reasons = [f"{worker.name} on {worker.device}: {worker.reason}" for worker in workers if worker.reason]
    return f"No worker is up ({'; '.join(reasons)})." if reasons else "The workers are starting."
