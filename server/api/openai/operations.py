"""What of the OpenAI Images dialect Litestar does not see by itself: bodies that routes read by hand, and streams."""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import Operation

from server.api.documenting import EVENTS, FILE, body, events, in_form, schema
from server.api.explaining import nested
from server.api.openai.schemas import GenerateBody, ImagesResponse

_REFERENCE = {
    "type": "object",
    "properties": {
        "image_url": {"type": "string", "description": "A data: URL; nothing is fetched."},
        "file_id": {"type": "string", "description": "The id of an asset."},
    },
    "minProperties": 1,
    "maxProperties": 1,
}
_EXAMPLES = {
    "As OpenAI's clients ask": {"prompt": "a red circle on a white background", "n": 1, "size": "auto", "quality": "low"},
    "With our extensions": {"prompt": "a blue star", "seed": 7, "steps": 8, "sampler": "dpmpp_2m", "negative_prompt": "blur"},
}


@dataclass
class Generations(Operation):
    """POST /v1/images/generations, with its body."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        return {
            **_answered(super().to_schema(), "image_generation"),
            "requestBody": body({"application/json": schema(GenerateBody)}, _EXAMPLES),
        }


@dataclass
class Edits(Operation):
    """POST /v1/images/edits, with both forms of its body."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        form = in_form(GenerateBody, nested(GenerateBody), image=FILE, mask=FILE)
        images = {"type": "array", "items": _REFERENCE, "minItems": 1, "maxItems": 1}
        json = schema(GenerateBody, images=images, mask=_REFERENCE)
        form["required"] = ["prompt", "image"]
        json["required"] = ["prompt", "images"]
        return {
            **_answered(super().to_schema(), "image_edit"),
            "requestBody": body({"multipart/form-data": form, "application/json": json}),
        }


def _answered(whole: dict[str, Any], kind: str) -> dict[str, Any]:
    names = [f"{kind}.{what}" for what in ("partial_image", "completed")]
    whole["responses"]["200"]["content"] = {
        "application/json": {"schema": schema(ImagesResponse)},
        EVENTS: {"schema": events("With `stream`: previews, then the images.", *names, "error")},
    }
    return whole
