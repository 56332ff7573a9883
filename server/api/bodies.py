"""Request bodies into structs, with messages a person can act on."""

from typing import Any, TypeVar

import msgspec

from pipelines.contract.errors import InvalidRequest
from server.api.explaining import explained, nested

T = TypeVar("T", bound=msgspec.Struct)


def from_json(body: bytes, kind: type[T]) -> T:
    """The JSON object in ``body`` as ``kind``."""
    if not body.strip():
        msg = "The request body is empty; send a JSON object."
        raise InvalidRequest(msg)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise explained(error, kind, _plain(body)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"The request body is not JSON: {error}"
        raise InvalidRequest(msg) from None


def from_form(fields: dict[str, Any], kind: type[T]) -> T:
    """Form fields, whose values are all strings, as ``kind``; an empty one counts as absent.

    Options that hold more than one plain value are JSON in their string.
    """
    inner = nested(kind)
    for name in fields:
        option = name.partition("[")[0]
        if option != name and option in inner:
            # Such names do not tell which values belong together: a list's second entry cannot be told from its first.
            msg = f"In a form, {option!r} is one field with JSON in it; {name!r} does not tell which values belong together."
            raise InvalidRequest(msg, param=option)
    given = {name: _unpacked(name, value) if name in inner else value for name, value in fields.items() if value != ""}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise explained(error, kind, given) from None


def _unpacked(name: str, value: Any) -> Any:
    """The value of a JSON text; a text that is none (``loras=paper-cut:0.8``) stays one."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{", '"'):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        msg = f"{name!r} is not JSON: {error}"
        raise InvalidRequest(msg, param=name) from None


def _plain(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
