"""POST /v1/content_provenance_checks: what a file says of its origin, in OpenAI's words and a few of our own."""

import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from litestar import Request, post
from litestar.datastructures import UploadFile
from litestar.di import NamedDependency
from litestar.openapi.spec import Operation

from pipelines.contract.errors import InvalidRequest
from server.api.bodies import from_json
from server.api.documenting import FILE, READING, body, failures, schema
from server.api.forms import is_form, parts
from server.api.guard import tenant_of
from server.api.openai.schemas import FailureBody
from server.api.pictures import Pictures
from server.api.uploads import Uploads
from server.storage.provenance.reading import Findings, Inspector, State


class CheckBody(msgspec.Struct, frozen=True):
    """The file in JSON: a base64 data: URL, or the id of an asset."""

    file: str


class CheckedIngredient(msgspec.Struct, frozen=True):
    """A picture that went into the one that was checked."""

    title: str
    relationship: str
    has_manifest: bool
    problems: list[str]


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The content credentials of the file: the first four fields are OpenAI's, as are ``model`` and ``generated_at``."""

    type: Literal["c2pa"] = "c2pa"
    outcome: Literal["detected", "not_detected"]
    validation_state: State
    issuer: str | None
    model: str | None
    generated_at: str | None
    generator: str | None
    ai_generated: bool
    actions: list[str]
    ingredients: list[CheckedIngredient]
    problems: list[str]


class ProvenanceCheck(msgspec.Struct, frozen=True):
    """What was found. There is no result for SynthID: nobody but its maker can look for that."""

    created_at: int
    results: list[CheckResult]
    object: Literal["content_provenance_check"] = "content_provenance_check"


@dataclass
class Check(Operation):
    """POST /v1/content_provenance_checks, with both forms of its body."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        form = {"type": "object", "properties": {"file": FILE}, "required": ["file"]}
        return {
            **super().to_schema(),
            "requestBody": body({"multipart/form-data": form, "application/json": schema(CheckBody)}),
        }


@post(
    "/v1/content_provenance_checks",
    status_code=200,
    operation_class=Check,
    responses=failures(FailureBody, (400, 404, 413, *READING, 503)),
)
async def check(
    request: Request[Any, Any, Any],
    pictures: NamedDependency[Pictures],
    uploads: NamedDependency[Uploads],
    inspector: NamedDependency[Inspector],
) -> ProvenanceCheck:
    """Read the content credentials (C2PA) in a PNG, JPEG, WebP or GIF; nothing that the file names is fetched."""
    sent = await _file(request)
    data = await pictures.source(tenant_of(request)).content(sent, "file")
    facts = await uploads.checked(data, "file")
    found = await inspector.findings(data, f"image/{facts.format}")
    return ProvenanceCheck(created_at=int(time.time()), results=[_result(found)])


async def _file(request: Request[Any, Any, Any]) -> bytes | str:
    if not is_form(request):
        return from_json(await request.body(), CheckBody).file
    sent = await parts(request)
    if len(sent) != 1 or sent[0][0] != "file" or not isinstance(sent[0][1], UploadFile):
        msg = "The form must have one file, in the field 'file'."
        raise InvalidRequest(msg, param="file")
    return await sent[0][1].read()


def _result(found: Findings) -> CheckResult:
    return CheckResult(
        outcome="not_detected" if found.state == "not_present" else "detected",
        validation_state=found.state,
        issuer=found.issuer,
        model=found.model,
        generated_at=found.generated_at,
        generator=found.generator,
        ai_generated=found.ai_generated,
        actions=list(found.actions),
        ingredients=[
            CheckedIngredient(part.title, part.relation, part.manifest, list(part.problems)) for part in found.ingredients
        ],
        problems=list(found.problems),
    )
