"""The addresses of preprocessing: which preprocessors there are, and making a control image to look at."""

import asyncio
from typing import Any

from litestar import MediaType, Request, Response, get, post
from litestar.di import NamedDependency

from pipelines.contract.preprocessing import find, settle
from server.api.documenting import READING, WORKING, failures
from server.api.guard import tenant_of
from server.api.native import preprocess_translate as translate
from server.api.native.bodies import NativeErrorBody
from server.api.native.preprocess_forms import PreprocessOperation, read_preprocess
from server.api.native.preprocess_schemas import PreprocessorList
from server.api.pictures import Pictures
from server.api.waiting import while_connected
from server.catalog.catalog import Catalog
from server.domain.asset import Delivery, Format
from server.fleet.fleet import Fleet
from server.storage.encode import encode


@get("/api/preprocessors", responses=failures(NativeErrorBody, READING))
async def preprocessors(catalog: NamedDependency[Catalog]) -> PreprocessorList:
    """Every preprocessor: its names, parameters, and whether it is ready or what it lacks."""
    return translate.listed(catalog.preprocessors)


@post("/api/preprocess", status_code=200, operation_class=PreprocessOperation, responses=failures(NativeErrorBody, WORKING))
async def preprocess(
    request: Request[Any, Any, Any], fleet: NamedDependency[Fleet], pictures: NamedDependency[Pictures]
) -> Response[Any]:
    """Make the control image of a picture: PNG bytes, or JSON with a data: URL for who accepts application/json rather.

    The result has the picture's aspect ratio, and a shorter side of ``options.resolution`` pixels (512 if left out).
    """
    sent = await read_preprocess(request)
    spec = find(sent.preprocessor)
    options = settle(spec, sent.options)
    picture = await pictures.source(tenant_of(request)).picture(sent.image, "image")
    made = await while_connected(request, fleet.preprocess(spec.id, picture, options))
    png = await asyncio.to_thread(encode, made, Delivery(Format.PNG))
    if translate.prefers_json(request.headers.get("accept", "")):
        return Response(translate.answer(spec, made, png), media_type=MediaType.JSON)
    return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})
