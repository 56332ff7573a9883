"""What of the native dialect Litestar does not see by itself: bodies that routes read by hand, streams, files."""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import Operation

from server.api.documenting import EVENTS, FILE, body, events, in_form, schema
from server.api.explaining import nested
from server.api.native.bodies import AssetView, Generated, GenerateRequest, JobRequest, StoredAsset
from server.api.sending import STATUSES

_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="
)
"""Eight by eight grey pixels."""
_WHOLE = {
    "type": "string",
    "contentMediaType": "application/json",
    "description": "The whole body as JSON, instead of fields; files stand beside it.",
}
_EVENTS = "With `Accept: text/event-stream`. The data of `finished` is what the JSON answer would be."
_JOB_EVENTS = "Each has an `id`: send the last one as `Last-Event-ID` to go on from there. The data of all but two is the job."
_EXAMPLES: dict[str, Any] = {
    "From a prompt": {"prompt": "a red circle on a white background", "seed": 7, "steps": 8},
    "Two seeds, one sampler, no guidance": {"prompt": "a blue star", "seeds": [1, 2], "sampler": "euler_a", "guidance": 1.0},
    "From a picture": {"prompt": "a green square", "image": _DOT, "strength": 0.6, "size": "64x64", "resize": "fill"},
    "Paint a part anew": {"prompt": "a yellow heart", "image": _DOT, "mask": _DOT, "mask_blur": 2, "only_masked": True},
    "Grow a picture to the right": {"prompt": "a wide landscape", "image": _DOT, "outpaint": {"right": 8}},
    "With a LoRA and a control network": {
        "prompt": "a house <lora:paper-cut:0.8>",
        "loras": [{"name": "ink", "weight": 0.5, "text_weight": 0.0}],
        "controls": [{"name": "canny", "image": _DOT, "weight": 0.9, "end": 0.8}],
    },
    "Like other pictures": {"prompt": "a portrait", "references": [{"name": "plus", "images": [_DOT], "weight": 0.5}]},
    "Larger, and smaller again": {"prompt": "a lake", "hires": {"scale": 2, "strength": 0.5}, "output": {"size": "128x128"}},
}


@dataclass
class Generate(Operation):
    """POST /api/generate."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        answers = {
            "application/json": {"schema": schema(Generated)},
            EVENTS: {"schema": events(_EVENTS, "started", "progress", "preview", "finished", "error")},
        }
        whole = super().to_schema()
        whole["responses"]["200"]["content"] = answers
        return {**whole, "requestBody": asked(GenerateRequest)}


@dataclass
class Consider(Operation):
    """POST /api/route."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        return {**super().to_schema(), "requestBody": asked(GenerateRequest)}


@dataclass
class Enqueue(Operation):
    """POST /api/jobs."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        return {**super().to_schema(), "requestBody": asked(JobRequest)}


@dataclass
class Follow(Operation):
    """GET /api/jobs/{job_id}/events."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        whole = super().to_schema()
        whole["responses"]["200"]["content"] = {
            EVENTS: {"schema": events(_JOB_EVENTS, "queued", "started", "progress", "preview", "finished")}
        }
        return whole


@dataclass
class Store(Operation):
    """POST /api/assets."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        form = {"type": "object", "properties": {"file": FILE}, "required": ["file"]}
        contents = {"multipart/form-data": form, **dict.fromkeys(_PICTURES, FILE)}
        return {**super().to_schema(), "requestBody": body(contents)}


@dataclass
class Fetch(Operation):
    """GET /api/assets/{asset_id}."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        whole = super().to_schema()
        files = {kind: {"schema": FILE} for kind in (*_PICTURES, "image/avif")}
        described = {"oneOf": [schema(AssetView), schema(StoredAsset)]}
        whole["responses"]["200"]["content"] = {**files, "application/json": {"schema": described}}
        for status, description in STATUSES.items():
            whole["responses"][status] = {"description": description}
        whole["responses"]["206"]["content"] = files
        return whole


def asked(kind: type[GenerateRequest]) -> dict[str, Any]:
    """The body of a request that is a ``kind``, in each of its forms."""
    forms = {
        "application/json": schema(kind),
        "multipart/form-data": in_form(kind, nested(kind), request=_WHOLE, image=FILE, mask=FILE),
    }
    # Files for options that name them have any other name.
    forms["multipart/form-data"]["additionalProperties"] = FILE
    return body(forms, _EXAMPLES)
