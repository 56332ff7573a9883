"""Pictures uploaded once, for later requests: each caller sees only its own."""

from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.datastructures import UploadFile
from litestar.di import NamedDependency
from litestar.params import FromPath

from pipelines.contract.errors import InvalidRequest
from server.api.documenting import READING, failures
from server.api.errors import UnknownAsset
from server.api.forms import is_form, parts
from server.api.guard import SCOPE, tenant_of
from server.api.native.bodies import NativeErrorBody, StoredAsset
from server.api.native.operations import Fetch, Store
from server.api.uploads import Uploads
from server.domain.key import Scope
from server.domain.ports import InputStore

AnyRequest = Request[Any, Any, Any]

_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp", b"GIF8": "image/gif"}


@post("/api/assets", operation_class=Store, responses=failures(NativeErrorBody, (400, 413, *READING)))
async def store(request: AnyRequest, uploads: NamedDependency[Uploads], inputs: NamedDependency[InputStore]) -> StoredAsset:
    """Keep a picture: the body itself, or the file part ``file`` of a form. The same picture gets the same id."""
    data = await _content(request)
    facts = await uploads.checked(data, "file")
    asset_id = await inputs.put(tenant_of(request), data)
    return StoredAsset(asset_id, facts.format, facts.width, facts.height, len(data))


@get(
    "/api/assets/{asset_id:str}",
    opt={SCOPE: Scope.JOBS_READ},
    operation_class=Fetch,
    responses=failures(NativeErrorBody, (400, 404, *READING)),
)
async def fetch(request: AnyRequest, asset_id: FromPath[str], inputs: NamedDependency[InputStore]) -> Response[bytes]:
    """The file as it was uploaded."""
    data = await inputs.get(tenant_of(request), asset_id)
    if data is None:
        raise _unknown(asset_id)
    media = next((kind for start, kind in _SIGNATURES.items() if data.startswith(start)), "application/octet-stream")
    return Response(
        data,
        media_type=media,
        headers={
            "Cache-Control": "private, no-cache",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        },
    )


@delete("/api/assets/{asset_id:str}", responses=failures(NativeErrorBody, (400, 404, *READING)))
async def forget(request: AnyRequest, asset_id: FromPath[str], inputs: NamedDependency[InputStore]) -> None:
    """Let go of it; requests that have begun keep what they read."""
    if not await inputs.delete(tenant_of(request), asset_id):
        raise _unknown(asset_id)


async def _content(request: AnyRequest) -> bytes:
    if not is_form(request):
        return await request.body()
    files = [(name, value) for name, value in await parts(request) if isinstance(value, UploadFile)]
    if len(files) != 1 or files[0][0] != "file":
        msg = "The form must have one file, in the field 'file'."
        raise InvalidRequest(msg, param="file")
    return await files[0][1].read()


def _unknown(asset_id: str) -> UnknownAsset:
    return UnknownAsset(f"There is no asset {asset_id!r}, or not any more.", param="asset_id")
