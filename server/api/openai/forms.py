"""Edit requests, from a form or from JSON, as fields and files."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import UploadFile

from pipelines.contract.errors import BadPicture, InvalidRequest, Unsupported
from server.api.bodies import from_form, from_json
from server.api.forms import parts as form_parts
from server.api.openai.schemas import EditBody, ImageRef

_IMAGE_FIELDS = ("image", "image[]", "images", "images[]")
_MASK_FIELDS = ("mask",)


class EditInput(msgspec.Struct, frozen=True):
    """The body, and the files as they came: bytes, or text that says where they are."""

    body: EditBody
    image: bytes | str
    mask: bytes | str | None
    parts: Mapping[str, bytes] = MappingProxyType({})
    """Further files by the names of their fields: options may name them."""


async def read_edit(request: Request[Any, Any, Any]) -> EditInput:
    """What was sent, in whichever of the two forms."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _multipart(request)
    body = from_json(await request.body(), EditBody)
    images = [_place(ref, "images") for ref in body.images]
    return EditInput(body, _only(images), _place(body.mask, "mask") if body.mask else None)


async def _multipart(request: Request[Any, Any, Any]) -> EditInput:
    fields: dict[str, Any] = {}
    parts: dict[str, bytes] = {}
    images: list[bytes | str] = []
    masks: list[bytes | str] = []
    for name, value in await form_parts(request):
        if name in (*_IMAGE_FIELDS, *_MASK_FIELDS):
            (masks if name in _MASK_FIELDS else images).append(await _file(name, value))
        elif isinstance(value, UploadFile):
            # For options that name it; a text field sent as a file part, as some clients do, is named by none.
            parts[name] = await value.read()
        else:
            fields[name] = value
    body = from_form(fields, EditBody)
    if len(masks) > 1:
        msg = "There is more than one 'mask'."
        raise InvalidRequest(msg, param="mask")
    return EditInput(body, _only(images), masks[0] if masks else None, parts)


async def _file(name: str, value: object) -> bytes | str:
    if isinstance(value, UploadFile):
        return await value.read()
    if isinstance(value, str) and value.startswith(("asset_", "data:")):
        return value
    msg = f"{name!r} must be a file, or the id of an asset, not other text."
    raise BadPicture(msg, param=name.removesuffix("[]"))


def _place(ref: ImageRef, param: str) -> str:
    if ref.file_id is not None and ref.image_url is None:
        return ref.file_id
    if ref.image_url is None or ref.file_id is not None or ref.image_url[:5].lower() != "data:":
        msg = f"{param!r} must hold image_url with a data: URL, or file_id with an asset's id; nothing else is fetched."
        raise Unsupported(msg, param=param)
    return ref.image_url


def _only(images: Sequence[bytes | str]) -> bytes | str:
    if not images:
        msg = "Missing required parameter: 'image'."
        raise InvalidRequest(msg, param="image")
    if len(images) > 1:
        msg = f"These models start from one image; {len(images)} were sent."
        raise Unsupported(msg, param="image")
    return images[0]
