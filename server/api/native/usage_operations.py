"""What of usage and estimates Litestar does not see by itself."""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import Operation

from server.api.documenting import schema
from server.api.native.operations import asked
from server.api.native.usage_bodies import EstimateRequest, UsageReport


@dataclass
class Used(Operation):
    """GET /api/usage."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        whole = super().to_schema()
        whole["responses"]["200"]["content"] = {
            "application/json": {"schema": schema(UsageReport)},
            "text/csv": {"schema": {"type": "string", "description": "The lines of `data`, with a head."}},
        }
        return whole


@dataclass
class Planned(Operation):
    """POST /api/estimate."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        return {**super().to_schema(), "requestBody": asked(EstimateRequest)}
