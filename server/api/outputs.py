"""Stored images, for whoever has a link that is still good."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request, Response, route
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.openapi.spec import Operation
from litestar.params import FromPath, FromQuery

from server.api.disclosing import PICTURES, disclose_for
from server.api.documenting import FILE, failures
from server.api.links import OUTPUTS, Links
from server.api.sending import STATUSES, sent
from server.domain.asset import Format
from server.domain.ports.assets import AssetStore


class PlainError(msgspec.Struct, frozen=True):
    """An error outside of any dialect."""

    detail: str
    code: str | None


@dataclass
class Output(Operation):
    """GET and HEAD /outputs/{name}."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        whole = super().to_schema()
        content = {each.media_type: {"schema": FILE} for each in Format}
        whole["responses"]["200"]["content"] = content
        for status, description in STATUSES.items():
            whole["responses"][status] = {"description": description}
        whole["responses"]["206"]["content"] = content
        return whole


@route(
    f"{OUTPUTS}/{{name:str}}",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    tags=["Results"],
    operation_class=Output,
    security=[{}],
    opt={PICTURES: True},
    responses=failures(PlainError, (400, 403, 404, 416, 500, 503)),
)
async def output(
    request: Request[Any, Any, Any],
    name: FromPath[str],
    *,
    store: NamedDependency[AssetStore],
    links: NamedDependency[Links],
    expires: FromQuery[str | None] = None,
    signature: FromQuery[str | None] = None,
) -> Response[Any]:
    """The file, by a link as answers have them. Ranges, `ETag` and `If-None-Match` are understood."""
    links.check(name, expires, signature)
    stored = await store.facts(name)
    if stored is None:
        raise NotFoundException
    disclose_for(request, stored.tenant)
    # For ever: a name is never used twice.
    return await sent(request, stored, store, "private, max-age=31536000, immutable")
