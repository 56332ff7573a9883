"""Request bodies into structs, with messages a person can act on."""

import re
from typing import Any, TypeVar

import msgspec

from pipelines.contract.errors import InvalidRequest

T = TypeVar("T")


def from_json(body: bytes, kind: type[T]) -> T:
    """The JSON object in ``body`` as ``kind``."""
    if not body.strip():
        msg = "The request body is empty; send a JSON object."
        raise InvalidRequest(msg)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _explained(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"The request body is not JSON: {error}"
        raise InvalidRequest(msg) from None


def from_form(fields: dict[str, Any], kind: type[T]) -> T:
    """Form fields, whose values are all strings, as ``kind``; an empty one counts as absent."""
    given = {name: value for name, value in fields.items() if value != ""}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _explained(error) from None


def _explained(error: msgspec.ValidationError) -> InvalidRequest:
    problem, _, path = str(error).partition(" - at `$")
    param = path.strip("`.") or None
    missing = re.fullmatch(r"Object missing required field `([^`]+)`", problem)
    if missing is not None:
        param = ".".join(part for part in (param, missing[1]) if part)
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    if param is None:
        return InvalidRequest(f"The request body is wrong: {problem}.")
    return InvalidRequest(f"Invalid value for '{param}': {problem}.", param=param)
