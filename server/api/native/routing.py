"""The road of a job that has succeeded, in our own words."""

from server.api.native.bodies import RouteView, TriedView
from server.domain.job import Job


def route_of(job: Job) -> RouteView:
    """Where it was made, by what, and why there."""
    route = job.route
    return RouteView(
        road=route.road,
        model=route.model or job.order.request.model,
        reasons=list(route.reasons),
        tried=[TriedView(each.road, each.code, each.message) for each in route.tried],
        request_ids=list(route.request_ids),
    )
