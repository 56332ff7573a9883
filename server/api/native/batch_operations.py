"""What of batches Litestar does not see by itself: files of lines, in both directions."""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import Operation

from server.api.documenting import FILE, schema
from server.api.native.batch_bodies import BatchHead, BatchLine, BatchResult

_LINES = {
    "type": "string",
    "description": "One JSON object a line. The first may say `defaults` and `webhook` for all.",
    "contentMediaType": "application/json",
}
_DEFAULTS = {"type": "string", "contentMediaType": "application/json", "description": "Options of every line, as JSON."}
_EXAMPLE = (
    '{"defaults": {"steps": 8, "size": "64x64"}}\n'
    '{"custom_id": "mug", "body": {"prompt": "a red mug"}}\n'
    '{"custom_id": "cup", "body": {"prompt": "a blue cup", "seed": 7}}\n'
)


@dataclass
class HandIn(Operation):
    """POST /api/batches."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        form = {
            "type": "object",
            "properties": {"file": FILE, "defaults": _DEFAULTS, "webhook": schema(BatchHead)["properties"]["webhook"]},
            "required": ["file"],
        }
        said = {**_LINES, "contentSchema": schema(BatchLine)}
        contents: dict[str, Any] = {"application/x-ndjson": {"schema": said, "example": _EXAMPLE}}
        contents["application/jsonl"] = {"schema": said}
        contents["multipart/form-data"] = {"schema": form}
        return {**super().to_schema(), "requestBody": {"required": True, "content": contents}}


@dataclass
class Results(Operation):
    """GET /api/batches/{batch_id}/results."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        whole = super().to_schema()
        said = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema(BatchResult)}
        whole["responses"]["200"]["content"] = {"application/x-ndjson": {"schema": said}}
        return whole
