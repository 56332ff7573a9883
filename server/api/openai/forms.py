"""Edit requests, from a form or from JSON, as fields and files."""

import base64
import binascii
import re
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import UploadFile

from pipelines.contract.errors import BadPicture, InvalidRequest, Unsupported
from server.api.bodies import from_form, from_json
from server.api.openai.schemas import EditBody, ImageRef

_DATA_URL = re.compile(r"data:[^,;]*(;[^,;]*)*;base64,", re.IGNORECASE)
_IMAGE_FIELDS = ("image", "image[]", "images", "images[]")
_MASK_FIELDS = ("mask",)


class EditInput(msgspec.Struct, frozen=True):
    """The body, and the files as they came."""

    body: EditBody
    image: bytes
    mask: bytes | None


async def read_edit(request: Request[Any, Any, Any]) -> EditInput:
    """What was sent, in whichever of the two forms."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _multipart(request)
    body = from_json(await request.body(), EditBody)
    images = [_inline(ref, "images") for ref in body.images]
    mask = _inline(body.mask, "mask") if body.mask else None
    return EditInput(body, _only(images), mask)


async def _multipart(request: Request[Any, Any, Any]) -> EditInput:
    fields: dict[str, Any] = {}
    images: list[bytes] = []
    masks: list[bytes] = []
    for name, value in (await request.form()).multi_items():
        if name in (*_IMAGE_FIELDS, *_MASK_FIELDS):
            (masks if name in _MASK_FIELDS else images).append(await _file(name, value))
        elif isinstance(value, UploadFile):
            # A text field sent as a file part, as some clients do; files of other names are not ours.
            continue
        else:
            fields[name] = value
    body = from_form(fields, EditBody)
    if len(masks) > 1:
        msg = "There is more than one 'mask'."
        raise InvalidRequest(msg, param="mask")
    return EditInput(body, _only(images), masks[0] if masks else None)


async def _file(name: str, value: object) -> bytes:
    if isinstance(value, UploadFile):
        return await value.read()
    msg = f"{name!r} must be a file, not text."
    raise BadPicture(msg, param=name.removesuffix("[]"))


def _inline(ref: ImageRef, param: str) -> bytes:
    if ref.image_url is None or ref.image_url[:5].lower() != "data:":
        msg = f"{param!r} must hold image_url with a data: URL; nothing is fetched from other places."
        raise Unsupported(msg, param=param)
    header = _DATA_URL.match(ref.image_url[:256])
    if header is None:
        msg = f"The data: URL in {param!r} must be base64."
        raise BadPicture(msg, param=param)
    try:
        return base64.b64decode(ref.image_url[header.end() :], validate=True)
    except (binascii.Error, ValueError):
        msg = f"The data: URL in {param!r} is not valid base64."
        raise BadPicture(msg, param=param) from None


def _only(images: list[bytes]) -> bytes:
    if not images:
        msg = "Missing required parameter: 'image'."
        raise InvalidRequest(msg, param="image")
    if len(images) > 1:
        msg = f"These models start from one image; {len(images)} were sent."
        raise Unsupported(msg, param="image")
    return images[0]
