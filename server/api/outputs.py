"""Stored images, for whoever knows their unguessable name."""

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from server.api.links import OUTPUTS
from server.domain.asset import Format
from server.domain.ports import AssetStore


@get(f"{OUTPUTS}/{{name:str}}", include_in_schema=False)
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
