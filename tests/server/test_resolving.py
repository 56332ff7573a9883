"""Dependencies are resolved one after another, and nothing else changes."""

from litestar import Litestar, get
from litestar.di import NamedDependency, Provide
from litestar.routes import HTTPRoute
from litestar.testing import TestClient

from server.api.resolving import one_by_one


@get("/")
async def handler(a: NamedDependency[int], b: NamedDependency[int], c: NamedDependency[int]) -> list[int]:
    return [a, b, c]


def test_all_arrive_each_after_what_it_needs():
    dependencies = {
        "a": Provide(lambda: 1, sync_to_thread=False),
        "b": Provide(lambda: 2, sync_to_thread=False),
        "c": Provide(plus, sync_to_thread=False),
    }
    app = one_by_one(Litestar([handler], dependencies=dependencies))
    (route,) = [route for route in app.routes if isinstance(route, HTTPRoute) and route.path == "/"]
    batches = route.route_handler_map["GET"][1].dependency_batches
    assert [len(batch) for batch in batches] == [1, 1, 1]
    with TestClient(app) as client:
        assert client.get("/").json() == [1, 2, 3]


def plus(a: NamedDependency[int], b: NamedDependency[int]) -> int:
    return a + b
