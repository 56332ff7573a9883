"""POST /api/preprocess, from a form or from JSON, as a body and a file."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import UploadFile
from litestar.openapi.spec import Operation

from pipelines.contract.errors import BadPicture, InvalidRequest
from server.api.bodies import from_form, from_json
from server.api.forms import is_form, parts
from server.api.native.preprocess_schemas import PreprocessAnswer, PreprocessBody, PreprocessForm


class PreprocessInput(msgspec.Struct, frozen=True):
    """What was sent, in whichever of the two forms."""

    preprocessor: str
    image: bytes | str
    """The file, or what the body says of it."""
    options: dict[str, int | float]


async def read_preprocess(request: Request[Any, Any, Any]) -> PreprocessInput:
    """The request's body; raises `InvalidRequest` for one that is none."""
    if is_form(request):
        return await _multipart(request)
    body = from_json(await request.body(), PreprocessBody)
    return PreprocessInput(body.preprocessor, body.image, body.options)


async def _multipart(request: Request[Any, Any, Any]) -> PreprocessInput:
    fields: dict[str, Any] = {}
    image: bytes | None = None
    for name, value in await parts(request):
        if name != "image":
            fields[name] = value
        elif image is not None:
            msg = "There is more than one 'image'."
            raise InvalidRequest(msg, param="image")
        elif isinstance(value, UploadFile):
            image = await value.read()
        else:
            msg = "'image' must be a file, not text."
            raise BadPicture(msg, param="image")
    unknown = next((name for name in fields if name not in PreprocessForm.__struct_fields__), None)
    if unknown is not None:
        msg = f"There is no field {unknown!r}; a form has image, preprocessor and options."
        raise InvalidRequest(msg, param=unknown)
    form = from_form(fields, PreprocessForm)
    if image is None:
        msg = "Missing required parameter: 'image'."
        raise InvalidRequest(msg, param="image")
    try:
        options = msgspec.json.decode(form.options, type=dict[str, int | float])
    except msgspec.DecodeError as error:
        msg = f"'options' must be a JSON object of numbers: {error}"
        raise InvalidRequest(msg, param="options") from None
    return PreprocessInput(form.preprocessor, image, options)


@dataclass
class PreprocessOperation(Operation):
    """POST /api/preprocess, with both forms of its body and of its answer: Litestar does not see them."""

    def to_schema(self) -> dict[str, Any]:
        """The operation as the document has it."""
        _, components = msgspec.json.schema_components([PreprocessBody])
        json = dict(components[PreprocessBody.__name__])
        json["examples"] = [{"image": "data:image/png;base64,...", "preprocessor": "canny", "options": {"low_threshold": 80}}]
        options = {"type": "string", "description": "The options, as a JSON object."}
        file = {"type": "string", "format": "binary"}
        form = {
            "type": "object",
            "properties": {"image": file, "preprocessor": {"type": "string"}, "options": options},
            "required": ["image", "preprocessor"],
        }
        content = {"application/json": {"schema": json}, "multipart/form-data": {"schema": form}}
        operation = super().to_schema()
        _, answers = msgspec.json.schema_components([PreprocessAnswer])
        operation["responses"]["200"]["content"] = {
            "image/png": {"schema": file},
            "application/json": {"schema": answers[PreprocessAnswer.__name__]},
        }
        return {**operation, "requestBody": {"required": True, "content": content}}
