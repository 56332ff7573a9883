"""The OpenAPI document's words for what routes do by hand: bodies, files, streams, and errors in a dialect's own form."""

from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPI, OpenAPIType, Parameter, Schema

FILE: Mapping[str, Any] = {"type": "string", "format": "binary"}
EVENTS = "text/event-stream"

_WHY = {
    400: "The request is wrong; `param` names the field at fault.",
    401: "No key, or one that opens nothing.",
    403: "The key that was sent does not open this.",
    409: "The first request with this `Idempotency-Key` is not answered yet; `Retry-After` says when to come back.",
    410: "The request was done, and its answer was too large to keep for this `Idempotency-Key`.",
    422: "This `Idempotency-Key` was sent with another request before.",
    404: "What is named does not exist: a model, an asset, a result.",
    416: "The file has no such range.",
    413: "The body has too many bytes.",
    429: "The queue is full, or a limit of the caller's is reached; `Retry-After` says when to come back.",
    500: "The server failed; the answer's `x-request-id` is in its log.",
    503: "The server is shutting down, no worker is up, or the store of results does not answer; try again.",
    504: "The request could no longer be finished in time.",
    507: "There is no room for results, or in the database; try again later.",
}
READING = (401, 403, 500)
"""What any address that needs a key may answer."""
WORKING = (400, 401, 403, 404, 413, 429, 500, 503, 504, 507)
"""What an address that makes images may answer."""


def failures(body: type[msgspec.Struct], statuses: tuple[int, ...]) -> dict[int, ResponseSpec]:
    """An error's answer for each of ``statuses``, in the form ``body``."""
    return {
        status: ResponseSpec(body, generate_examples=False, description=_WHY.get(status, HTTPStatus(status).phrase))
        for status in statuses
    }


def events(description: str, *names: str) -> dict[str, Any]:
    """The schema of one server-sent event, which is called one of ``names`` and whose data is JSON."""
    name = {"type": "string", "enum": list(names)}
    data = {"type": "string", "contentMediaType": "application/json"}
    return {
        "description": description,
        "type": "object",
        "properties": {"event": name, "data": data},
        "required": ["event", "data"],
    }


def schema(kind: type[msgspec.Struct], **more: Any) -> dict[str, Any]:
    """The JSON schema of ``kind`` with everything that it refers to in place; ``more`` replaces or adds properties."""
    (found,), components = msgspec.json.schema_components([kind], ref_template="{name}")
    whole: dict[str, Any] = _inlined(found, components)
    whole["properties"] = {**whole["properties"], **more}
    return whole


def body(contents: Mapping[str, Mapping[str, Any]], examples: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A required body in one of several media types; ``examples`` are JSON bodies by their titles."""
    media: dict[str, Any] = {kind: {"schema": dict(each)} for kind, each in contents.items()}
    if examples:
        shown = {f"example-{index}": {"summary": title, "value": value} for index, (title, value) in enumerate(examples.items())}
        media["application/json"]["examples"] = shown
    return {"required": True, "content": media}


def in_form(kind: type[msgspec.Struct], nested: frozenset[str], **more: Any) -> dict[str, Any]:
    """The schema of ``kind`` as a form: options that hold more than one plain value are JSON in a string."""
    found = schema(kind)
    properties: dict[str, Any] = {}
    for name, each in found["properties"].items():
        text = {"type": "string", "contentMediaType": "application/json", "contentSchema": each}
        properties[name] = {**text, **_described(each)} if name in nested else each
    return {**found, "properties": {**properties, **more}}


def _described(node: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": node["description"]} if "description" in node else {}


def _inlined(node: Any, components: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(each, components) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return {**_inlined(components[node["$ref"]], components), **rest}
    return {key: _inlined(value, components) for key, value in node.items()}


def document_keys(document: OpenAPI) -> None:
    """Say of every POST in ``document`` that it takes an ``Idempotency-Key``, and what it may answer because of it."""
    key = Parameter(
        name="Idempotency-Key",
        param_in="header",
        description="Of the caller's choice: the same request with the same key gets the same answer. Not with streamed answers.",
        schema=Schema(type=OpenAPIType.STRING, min_length=1, max_length=255),
    )
    for item in (document.paths or {}).values():
        if item.post is None or not item.post.responses or "400" not in item.post.responses:
            continue
        item.post.parameters = [*(item.post.parameters or []), key]
        refused = item.post.responses["400"]
        for status in (409, 410, 422):
            item.post.responses[str(status)] = replace(refused, description=_WHY[status])
