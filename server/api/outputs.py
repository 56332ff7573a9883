"""Stored images, for whoever knows their unguessable name."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.openapi.spec import Operation
from litestar.params import FromPath

from server.api.disclosing import PICTURES
from server.api.documenting import FILE, failures
from server.api.links import OUTPUTS
from server.domain.asset import Format
from server.domain.ports import AssetStore


class PlainError(msgspec.Struct, frozen=True):
    """An error outside of any dialect."""

    detail: str
    code: str | None


@dataclass
class Output(Operation):
    """GET /outputs/{name}."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        whole = super().to_schema()
        whole["responses"]["200"]["content"] = {each.media_type: {"schema": FILE} for each in Format}
        return whole


@get(
    f"{OUTPUTS}/{{name:str}}",
    tags=["Results"],
    operation_class=Output,
    security=[{}],
    opt={PICTURES: True},
    responses=failures(PlainError, (400, 404, 500)),
)
async def output(name: FromPath[str], store: NamedDependency[AssetStore]) -> Response[bytes]:
    """The file, cacheable for ever: a name is never used twice."""
    data = await store.get(name)
    if data is None:
        raise NotFoundException
    return Response(
        data,
        media_type=Format(name.rpartition(".")[2]).media_type,
        headers={
            "Cache-Control": "private, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        },
    )
