"""Dependencies without a task group for each request.

Litestar resolves dependencies that do not need each other at the same time, in a task group. Ours wait for nothing, and the group
costs more than all they do (a third of what a cache hit costs; `benchmarks/overhead.py`). There is no setting for it.
"""

from litestar import Litestar
from litestar.routes import HTTPRoute


def one_by_one(app: Litestar) -> Litestar:
    """``app``, whose routes resolve their dependencies one after another."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for _, model in route.route_handler_map.values():
                model.dependency_batches = [{each} for batch in model.dependency_batches for each in batch]
    return app
