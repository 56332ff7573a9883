"""Bodies as OpenAI writes them, and our additions at the same level. Unknown keys are ignored, as theirs keep coming."""

from typing import Literal

import msgspec

from server.api.errors import ModerationDetails
from server.api.options import Shaping
from server.domain.caching import CacheResult


class ImageOptions(Shaping, frozen=True, kw_only=True):
    """What generations and edits have in common. None means: as if it were not there."""

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    response_format: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    stream: bool | None = None
    partial_images: int | None = None
    user: str | None = None

    # Ours, beside those of `Shaping`.
    guidance_scale: float | None = None


class GenerateBody(ImageOptions, frozen=True, kw_only=True):
    """POST /v1/images/generations."""


class ImageRef(msgspec.Struct, frozen=True):
    """A picture inside a JSON body."""

    image_url: str | None = None
    file_id: str | None = None


class EditBody(ImageOptions, frozen=True, kw_only=True):
    """POST /v1/images/edits; the pictures come beside it in a form, or in these two fields in JSON."""

    images: tuple[ImageRef, ...] = ()
    mask: ImageRef | None = None


class ImageItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result: either ``url`` or ``b64_json``, never both."""

    url: str | None = None
    b64_json: str | None = None
    seed: int | None = None
    """Ours: the seed that makes this image again."""


class InputTokens(msgspec.Struct, frozen=True):
    """What the tokens of an input were."""

    text_tokens: int
    image_tokens: int


class TokenUsage(msgspec.Struct, frozen=True):
    """What an upstream counted; nothing of ours is counted in tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokens


class ImagesResponse(msgspec.Struct, frozen=True):
    """The answer to generations and edits."""

    created: int
    data: list[ImageItem]
    background: Literal["opaque", "transparent"]
    output_format: str
    quality: str
    size: str
    usage: TokenUsage | msgspec.UnsetType = msgspec.UNSET
    """Of pictures that an upstream made."""


class Model(msgspec.Struct, frozen=True):
    """One entry of the model list."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct, frozen=True):
    """GET /v1/models."""

    data: list[Model]
    object: Literal["list"] = "list"


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One server-sent event of a streamed request."""

    type: str
    b64_json: str
    created_at: int
    size: str
    quality: str
    background: Literal["opaque", "transparent"]
    output_format: str
    partial_image_index: int | None = None
    usage: TokenUsage | None = None
    cache: CacheResult | None = None
    """Ours, of a finished image: how it came about."""


class Failure(msgspec.Struct, frozen=True):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    moderation_details: ModerationDetails | None = None
    """With the code ``moderation_blocked``, where this server itself has refused."""


class FailureBody(msgspec.Struct, frozen=True):
    """Every answer of this dialect with a status of 400 or above."""

    error: Failure
