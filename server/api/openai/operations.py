"""Request bodies for the OpenAPI document: the routes read them by hand, for better errors, so Litestar does not see them."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.spec import Operation

from server.api.openai.schemas import GenerateBody

_FILE = {"type": "string", "format": "binary"}
_REFERENCE = {
    "type": "object",
    "properties": {"image_url": {"type": "string", "description": "A data: URL; nothing is fetched."}},
    "required": ["image_url"],
}


@dataclass
class Generations(Operation):
    """POST /v1/images/generations, with its body."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        return {**super().to_schema(), "requestBody": _body({"application/json": _options()})}


@dataclass
class Edits(Operation):
    """POST /v1/images/edits, with both forms of its body."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        form = _options(image=_FILE, mask=_FILE)
        json = _options(images={"type": "array", "items": _REFERENCE, "minItems": 1, "maxItems": 1}, mask=_REFERENCE)
        form["required"] = ["prompt", "image"]
        json["required"] = ["prompt", "images"]
        return {**super().to_schema(), "requestBody": _body({"multipart/form-data": form, "application/json": json})}


def _options(**more: Any) -> dict[str, Any]:
    _, components = msgspec.json.schema_components([GenerateBody])
    schema: dict[str, Any] = dict(components[GenerateBody.__name__])
    schema["properties"] = {**schema["properties"], **more}
    return schema


def _body(forms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"required": True, "content": {media: {"schema": schema} for media, schema in forms.items()}}
