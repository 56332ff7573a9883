"""What is sent to make images, and what comes back. Unknown options are refused: this is our own dialect."""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pipelines.contract.adapters import ControlCard, LoraCard, ReferenceCard, UpscalerCard
from server.api.options import PictureText, Shaping
from server.domain.job import JobState


class Recipe(StrEnum):
    """Everyday edits that have a name."""

    ERASE = "erase"
    VARIATION = "variation"


class GenerateRequest(Shaping, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/generate: everything that can be said."""

    prompt: Annotated[str, Meta(description="What to draw; may be empty where a picture is given.")] = ""
    model: Annotated[str | None, Meta(description="An id or alias of models.yaml; absent: the default model.")] = None
    width: Annotated[int | None, Meta(description="Pixels, with `height`.")] = None
    height: Annotated[int | None, Meta(description="Pixels, with `width`.")] = None
    size: Annotated[str | None, Meta(description="WIDTHxHEIGHT, instead of both.", examples=["512x512"])] = None
    aspect_ratio: Annotated[
        str | None, Meta(description="A shape, with as many pixels as the default size.", examples=["16:9"])
    ] = None
    count: Annotated[int | None, Meta(description="How many images; absent: one, or one for each of `seeds`.")] = None
    seeds: Annotated[list[int] | None, Meta(description="A seed for each image, instead of `seed`.")] = None
    guidance: Annotated[float | None, Meta(description="Classifier-free guidance, 0 to 100; at 1 or below it is off.")] = None
    image: Annotated[PictureText | None, Meta(description="The picture to start from.")] = None
    mask: Annotated[
        PictureText | None, Meta(description="Of the picture's size: what is white, or transparent, is painted anew.")
    ] = None
    recipe: Annotated[
        Recipe | None,
        Meta(description="erase: take away what `mask` shows, without words. variation: another picture like `image`."),
    ] = None
    response_format: Annotated[Literal["url", "b64"] | None, Meta(description="Absent: url.")] = None
    previews: Annotated[int | None, Meta(description="Of a streamed request or a job: previews of each image, 0 to 10.")] = None


class JobRequest(GenerateRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/jobs: the same, and what goes with not waiting."""

    webhook: Annotated[str | None, Meta(description="Told when the job is over, by Standard Webhooks.")] = None
    priority: Annotated[Literal["normal", "bulk"] | None, Meta(description="bulk: behind all other work.")] = None


class GeneratedImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result: either ``url`` or ``b64``."""

    seed: int
    width: int
    height: int
    format: str
    url: str | None = None
    b64: str | None = None


class Timings(msgspec.Struct, frozen=True):
    """Where the time went, in seconds."""

    queue: float
    encode: float
    denoise: float
    decode: float
    total: float
    """From the job's admission to its end, storing included."""


class Notice(msgspec.Struct, frozen=True):
    """Something that was done as asked, and may not be what was meant."""

    code: str
    message: str
    param: str | None = None


class Generated(msgspec.Struct, frozen=True):
    """The answer to POST /api/generate."""

    id: str
    created: int
    model: str
    size: str
    seeds: list[int]
    images: list[GeneratedImage]
    timings: Timings
    evaluations: int
    """Network evaluations that it cost."""
    warnings: list[Notice]


class NativeError(msgspec.Struct, frozen=True):
    """What went wrong."""

    code: str | None
    message: str
    param: str | None
    """The option at fault, such as ``controls[0].weight``."""
    retryable: bool
    """Whether the same request may succeed later."""


class JobTimings(msgspec.Struct, frozen=True):
    """Where a finished job's time went, in seconds."""

    waited: float
    """In the queue, from its admission to its first beginning."""
    queue: float
    """At the worker, to the first encode."""
    encode: float
    denoise: float
    decode: float


class JobView(msgspec.Struct, frozen=True):
    """One job as it stands."""

    id: str
    batch: str | None
    """The batch that it is a line of."""
    state: JobState
    model: str
    created: float
    """Times are Unix seconds."""
    started: float | None
    finished: float | None
    seeds: list[int]
    width: int
    height: int
    attempts: int
    """How often a server has begun it; more than once if one died."""
    cancelling: bool
    """It is to be cancelled, and its server has yet to stop it."""
    position: int | None
    """Queued: jobs before it."""
    estimated_start: float | None
    """Queued: when it may begin."""
    images: list[GeneratedImage]
    error: NativeError | None
    timings: JobTimings | None
    evaluations: int | None
    """Network evaluations that it cost."""
    company: float | None
    """Mean number of evaluations in the ticks it shared, its own included."""


class JobAccepted(msgspec.Struct, frozen=True):
    """The answer to POST /api/jobs: it will be done."""

    id: str
    warnings: list[Notice]


class JobList(msgspec.Struct, frozen=True):
    """One page of jobs, the newest first."""

    data: list[JobView]
    next: str | None
    """`cursor` of the page after this one; null on the last."""


class StoredAsset(msgspec.Struct, frozen=True):
    """The answer to POST /api/assets."""

    id: str
    format: str
    width: int
    height: int
    bytes: int


class Adapters(msgspec.Struct, frozen=True):
    """GET /api/adapters: what models.yaml lists beside models."""

    loras: list[LoraCard]
    controlnets: list[ControlCard]
    ip_adapters: list[ReferenceCard]
    upscalers: list[UpscalerCard]


class NativeErrorBody(msgspec.Struct, frozen=True):
    """Every answer of this dialect with a status of 400 or above."""

    error: NativeError
