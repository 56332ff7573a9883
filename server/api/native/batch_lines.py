"""Lines of a batch into requests: pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pipelines.contract.errors import InvalidRequest, Unsupported
from server.api.bodies import from_json
from server.api.explaining import explained
from server.api.native.batch_bodies import BatchHead, BatchLine
from server.api.native.bodies import GenerateRequest


def head(line: bytes) -> BatchHead | None:
    """The first line as what goes for the whole file; None if it is a request like the others."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(found, dict) or "custom_id" in found or not found.keys() & {"defaults", "webhook"}:
        return None
    return checked(from_json(line, BatchHead))


def checked(found: BatchHead) -> BatchHead:
    """``found``, whose defaults are options of requests; raises `InvalidRequest` if not."""
    request({}, found.defaults)
    return found


def line(data: bytes) -> BatchLine:
    """One line as it was sent."""
    return from_json(data, BatchLine)


def request(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> GenerateRequest:
    """What ``body`` asks for, with ``defaults`` wherever it says nothing."""
    whole = merged(defaults, body)
    try:
        found = msgspec.convert(whole, GenerateRequest)
    except msgspec.ValidationError as error:
        raise explained(error, GenerateRequest, whole) from None
    if found.response_format == "b64":
        msg = "'response_format' can be 'url' only: the results of a batch have links."
        raise InvalidRequest(msg, param="response_format")
    if found.previews:
        msg = "'previews' are for who watches; nobody watches the lines of a batch."
        raise Unsupported(msg, param="previews")
    return found


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` with what only ``under`` says; objects within are merged alike, lists and plain values replaced."""
    found = dict(under)
    for name, value in over.items():
        below = found.get(name)
        found[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return found
