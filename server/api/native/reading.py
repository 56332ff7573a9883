"""A request to make images, as JSON, as a form of plain fields, or as a form with JSON and files."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec
from litestar import Request
from litestar.datastructures import UploadFile

from pipelines.contract.errors import InvalidRequest
from server.api.bodies import from_form, from_json
from server.api.forms import is_form
from server.api.forms import parts as form_parts
from server.api.native.bodies import GenerateRequest

T = TypeVar("T", bound=GenerateRequest)

_WHOLE = "request"
"""The part of a form that holds the whole body as JSON."""


class Sent(msgspec.Struct, Generic[T], frozen=True):
    """The body, and the files that came with it by the names of their fields."""

    body: T
    parts: Mapping[str, bytes]

    @property
    def image(self) -> bytes | str | None:
        """The picture to start from: a file of that name, or what the body says."""
        return self.parts.get("image", self.body.image)

    @property
    def mask(self) -> bytes | str | None:
        """The mask, in the same way."""
        return self.parts.get("mask", self.body.mask)


async def read(request: Request[Any, Any, Any], kind: type[T]) -> Sent[T]:
    """What was sent as a ``kind``, in whichever form."""
    if not is_form(request):
        return Sent(from_json(await request.body(), kind), {})
    fields: dict[str, Any] = {}
    parts: dict[str, bytes] = {}
    for name, value in await form_parts(request):
        if name in fields or name in parts:
            msg = f"There is more than one {name!r}; lists are one field with JSON in it."
            raise InvalidRequest(msg, param=name.removesuffix("[]"))
        if isinstance(value, UploadFile):
            parts[name] = await value.read()
        else:
            fields[name] = value
    whole = parts.pop(_WHOLE, None)
    if whole is None and isinstance(fields.get(_WHOLE), str):
        whole = fields.pop(_WHOLE).encode()
    if whole is None:
        body = from_form(fields, kind)
    elif fields:
        msg = f"Send options in the part {_WHOLE!r} or as fields, not in both; {', '.join(sorted(fields))} stand beside it."
        raise InvalidRequest(msg, param=min(fields))
    else:
        body = from_json(whole, kind)
    for name in ("image", "mask"):
        if name in parts and getattr(body, name) is not None:
            msg = f"{name!r} is sent as a file and named in {_WHOLE!r}; send one."
            raise InvalidRequest(msg, param=name)
    return Sent(body, parts)
