"""POST /v1/moderations: the local lists and the local image classifier, in OpenAI's shape."""

import secrets
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Operation

from pipelines.contract.errors import InvalidRequest, TooLarge, UnknownModel, Unsupported
from pipelines.contract.picture import Picture
from server.api.bodies import from_json
from server.api.checks import few
from server.api.documenting import WORKING, body, failures
from server.api.guard import tenant_of
from server.api.openai.schemas import FailureBody
from server.api.pictures import inline
from server.api.uploads import Uploads
from server.domain.verdict import OWN, Category
from server.gateway.moderation.bench import Bench

MODELS = (
    *("omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest", "text-moderation-stable"),
    "text-moderation-007",
)
"""Names that clients send; the answer is the same for all of them."""
MOST_TEXTS, MOST_PICTURES, MOST_CHARACTERS = 32, 8, 100_000

_Kind = Literal["text", "image"]


class ImageUrl(msgspec.Struct, frozen=True):
    """Where a picture is."""

    url: str


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Words."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    """A picture, in a ``data:`` URL."""

    image_url: ImageUrl


class ModerationBody(msgspec.Struct, frozen=True):
    """What is to be judged: a text, several texts, or parts that belong together. Unknown keys are ignored."""

    input: str | list[str | TextPart | ImagePart]
    model: str | None = None


class ModerationResult(msgspec.Struct, frozen=True):
    """What is to be objected to in one input."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[_Kind]]


class ModerationAnswer(msgspec.Struct, frozen=True):
    """The answer to POST /v1/moderations."""

    id: str
    model: str
    results: list[ModerationResult]


_PART = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            "required": ["type", "text"],
        },
        {
            "type": "object",
            "properties": {
                "type": {"const": "image_url"},
                "image_url": {
                    "type": "object",
                    "properties": {"url": {"type": "string", "description": "A data: URL; nothing is fetched."}},
                    "required": ["url"],
                },
            },
            "required": ["type", "image_url"],
        },
    ]
}
_BODY = {
    "type": "object",
    "properties": {
        "input": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_TEXTS},
                {"type": "array", "items": _PART, "minItems": 1},
            ],
        },
        "model": {"anyOf": [{"type": "string", "enum": list(MODELS)}, {"type": "null"}]},
    },
    "required": ["input"],
}
_EXAMPLES = {
    "A text": {"input": "a red circle on a white background"},
    "Several texts": {"input": ["a red circle", "a blue star"], "model": "omni-moderation-latest"},
    "Parts": {"input": [{"type": "text", "text": "a red circle"}]},
}


@dataclass
class Moderations(Operation):
    """POST /v1/moderations, with its body."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        return {**super().to_schema(), "requestBody": body({"application/json": _BODY}, _EXAMPLES)}


@post("/v1/moderations", status_code=200, operation_class=Moderations, responses=failures(FailureBody, WORKING))
async def moderate(
    request: Request[Any, Any, Any], bench: NamedDependency[Bench], uploads: NamedDependency[Uploads]
) -> ModerationAnswer:
    """Judge texts and pictures by this server's own lists and classifier; what follows from it is the caller's business.

    Lists know no probabilities: a score is 0 or 1 for a text. A tenant's own words flag without a category.
    """
    sent = from_json(await request.body(), ModerationBody)
    if sent.model is not None and sent.model not in MODELS:
        msg = f"The model {sent.model!r} does not exist; there are {', '.join(MODELS)}."
        raise UnknownModel(msg, param="model")
    tenant = tenant_of(request)
    results: list[ModerationResult] = []
    for texts, pictures in await _inputs(sent.input, bench, uploads):
        reading = await bench.read(tenant, texts)
        found: dict[str, dict[_Kind, float]] = {hit.category: {"text": 1.0} for hit in reading.hits}
        for picture in pictures:
            for category, score in (await bench.look(tenant, picture)).items():
                scores = found.setdefault(category, {})
                scores["image"] = max(scores.get("image", 0.0), score)
        if reading.young and "image" in found.get(Category.SEXUAL, {}):
            found.setdefault(Category.SEXUAL_MINORS.value, {})["image"] = found[Category.SEXUAL]["image"]
        results.append(_result(found))
    return ModerationAnswer(f"modr-{secrets.token_hex(12)}", sent.model or MODELS[0], results)


async def _inputs(
    given: str | list[str | TextPart | ImagePart], bench: Bench, uploads: Uploads
) -> list[tuple[list[str], list[Picture]]]:
    """What each result is about."""
    if isinstance(given, str):
        given = [given]
    if not given:
        msg = "'input' is empty."
        raise InvalidRequest(msg, param="input")
    texts = [part if isinstance(part, str) else part.text for part in given if not isinstance(part, ImagePart)]
    few(len(texts), "input", MOST_TEXTS)
    if sum(map(len, texts)) > MOST_CHARACTERS:
        msg = f"The texts of 'input' may have {MOST_CHARACTERS} characters together."
        raise TooLarge(msg, param="input")
    plain = [isinstance(part, str) for part in given]
    if all(plain):
        return [([text], []) for text in texts]
    if any(plain):
        msg = "'input' must be a text, a list of texts, or a list of parts with 'type', not texts among parts."
        raise InvalidRequest(msg, param="input")
    few(len(given) - len(texts), "input", MOST_PICTURES)
    pictures = [
        await _picture(part.image_url.url, f"input[{index}].image_url.url", bench, uploads)
        for index, part in enumerate(given)
        if isinstance(part, ImagePart)
    ]
    return [(texts, pictures)]


async def _picture(url: str, param: str, bench: Bench, uploads: Uploads) -> Picture:
    if not bench.sees:
        msg = "This server has no image classifier; it judges texts only."
        raise Unsupported(msg, param=param)
    if url[:5].lower() != "data:":
        msg = f"{param!r} must be a data: URL; nothing is fetched from other places."
        raise Unsupported(msg, param=param)
    return await uploads.picture(inline(url, param), param)


def _result(found: dict[str, dict[_Kind, float]]) -> ModerationResult:
    names = [category.value for category in Category]
    return ModerationResult(
        flagged=any(name in found for name in (*names, OWN)),
        categories={name: name in found for name in names},
        category_scores={name: max(found.get(name, {}).values(), default=0.0) for name in names},
        category_applied_input_types={name: sorted(found.get(name, {}), reverse=True) for name in names},
    )
