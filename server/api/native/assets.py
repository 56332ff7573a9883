"""Assets: pictures uploaded once for later requests, and results. Each caller sees only its own."""

from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import UploadFile
from litestar.di import NamedDependency
from litestar.params import FromPath

from pipelines.contract.errors import InvalidRequest
from server.api.documenting import READING, failures
from server.api.errors import UnknownAsset
from server.api.forms import is_form, parts
from server.api.guard import SCOPE, tenant_of
from server.api.links import Links
from server.api.native.bodies import AssetView, NativeErrorBody, StoredAsset
from server.api.native.operations import Fetch, Store
from server.api.sending import SAFE, sent
from server.api.uploads import Uploads
from server.domain.asset import Format
from server.domain.key import Scope
from server.domain.ports.assets import AssetStore
from server.domain.ports.inputs import InputStore
from server.domain.stored import Stored
from server.storage.kinds import media_type

AnyRequest = Request[Any, Any, Any]

_JSON = "application/json"
_LIVE = {"Cache-Control": "no-store"}
_OFFERED = (*(form.media_type for form in Format), "image/gif")


@post("/api/assets", operation_class=Store, responses=failures(NativeErrorBody, (400, 413, *READING, 503, 507)))
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
    responses=failures(NativeErrorBody, (400, 404, 416, *READING, 503)),
)
async def fetch(
    request: AnyRequest,
    asset_id: FromPath[str],
    *,
    inputs: NamedDependency[InputStore],
    uploads: NamedDependency[Uploads],
    store: NamedDependency[AssetStore],
    links: NamedDependency[Links],
) -> Response[Any]:
    """The file, of an upload or of a result; with ``Accept: application/json`` what is known of it."""
    described = _wants_json(request)
    stored = await store.facts(asset_id)
    if stored is not None:
        if stored.tenant != tenant_of(request):
            raise _unknown(asset_id)
        if described:
            return Response(_view(stored, await links.output(request, stored.asset)), headers=_LIVE)
        return await sent(request, stored, store, "private, no-cache")
    data = await inputs.get(tenant_of(request), asset_id)
    if data is None:
        raise _unknown(asset_id)
    if described:
        facts = await uploads.checked(data, "asset_id")
        return Response(StoredAsset(asset_id, facts.format, facts.width, facts.height, len(data)), headers=_LIVE)
    return Response(
        data,
        media_type=media_type(data) or "application/octet-stream",
        headers={"Cache-Control": "private, no-cache", **SAFE},
    )


@delete("/api/assets/{asset_id:str}", responses=failures(NativeErrorBody, (400, 404, *READING, 507)))
async def forget(
    request: AnyRequest,
    asset_id: FromPath[str],
    inputs: NamedDependency[InputStore],
    store: NamedDependency[AssetStore],
) -> None:
    """Let go of it; requests that have begun keep what they read."""
    tenant = tenant_of(request)
    if not await store.delete(tenant, [asset_id]) and not await inputs.delete(tenant, asset_id):
        raise _unknown(asset_id)


def _wants_json(request: AnyRequest) -> bool:
    """Whether the description is asked for by name: browsers and most programs would take anything, and get the image."""
    best = request.accept.best_match([*_OFFERED, _JSON], default=None)
    return best == _JSON


def _view(stored: Stored, url: str) -> AssetView:
    asset, made = stored.asset, msgspec.json.decode(stored.metadata)
    return AssetView(
        id=asset.name,
        job=stored.job_id,
        format=asset.format.value,
        width=asset.width,
        height=asset.height,
        bytes=asset.size,
        seed=asset.seed,
        created=stored.created,
        expires=stored.expires,
        url=url,
        parameters=made.get("parameters"),
        request=made.get("request"),
    )


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
