"""What is sent to make images, and what comes back. Unknown options are refused: this is our own dialect."""

from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipelines.contract.adapters import ControlCard, LoraCard, ReferenceCard, UpscalerCard
from server.api.options import PictureText, Shaping
from server.domain.caching import CacheResult
from server.domain.job import JobState
from server.domain.verdict import Action, Stage


class Recipe(StrEnum):
    """Everyday edits that have a name."""

    ERASE = "erase"
    VARIATION = "variation"
    UPSCALE = "upscale"


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
    quality: Annotated[
        Literal["low", "medium", "high"] | None,
        Meta(description="Sets `steps` where they are not said; `low` is a draft, which stays on this server."),
    ] = None
    image: Annotated[PictureText | None, Meta(description="The picture to start from.")] = None
    mask: Annotated[
        PictureText | None, Meta(description="Of the picture's size: what is white, or transparent, is painted anew.")
    ] = None
    recipe: Annotated[
        Recipe | None,
        Meta(
            description="erase: take away what `mask` shows, without words. variation: another picture like `image`. upscale: "
            "`image` itself, made larger as `upscale` says (absent: twice), with nothing drawn anew but by its `tiles`."
        ),
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
    id: str | None = None
    """Of the result: `GET /api/assets/{id}` gives the image and how it was made."""


class Timings(msgspec.Struct, frozen=True):
    """Where the time went, in seconds."""

    queue: float
    encode: float
    denoise: float
    decode: float
    total: float
    """From the job's admission to its end, storing included."""


class Spent(msgspec.Struct, frozen=True):
    """What it cost; tokens are an upstream's."""

    usd: float
    gpu_seconds: float
    input_text_tokens: int
    input_image_tokens: int
    output_tokens: int


class Notice(msgspec.Struct, frozen=True):
    """Something that was done as asked, and may not be what was meant."""

    code: str
    message: str
    param: str | None = None


class ModerationNote(msgspec.Struct, frozen=True):
    """Something that moderation did, beyond letting it pass."""

    stage: Stage
    action: Action
    by: str
    """``lists``, or the name of a classifier."""
    categories: tuple[str, ...]
    image: int | None
    """Which of the finished pictures, counted from 0."""
    param: str | None
    """Which field of the request."""


class TriedView(msgspec.Struct, frozen=True):
    """A road that was tried before, or could not be."""

    road: str
    code: str
    message: str


class RouteView(msgspec.Struct, frozen=True):
    """Which road a request took, and why."""

    road: str
    """`local`, or an upstream's name in models.yaml."""
    model: str
    """What made the pictures there."""
    reasons: list[str]
    tried: list[TriedView]
    request_ids: list[str]
    """The upstream's own, for its support."""


class RoadView(msgspec.Struct, frozen=True):
    """One road, as the router sees it."""

    road: str
    """`local`, `local:MODEL` or an upstream's name."""
    can: bool
    """Whether it could do the request as it is, and the key may use it."""
    lacking: list[str]
    """The options that it would have to leave out."""
    wait_seconds: float
    """How long until it could begin, as far as it is known."""
    place: int | None
    """In the order in which roads would be tried, from 1; null: it would not be."""


class RouteAnswer(msgspec.Struct, frozen=True):
    """The answer to POST /api/route: what would be done, and why; nothing was."""

    needs_text: bool
    """Whether the picture needs legible writing."""
    score: float
    """0 to 1; from 0.5 it does."""
    reasons: list[str]
    """Of the score."""
    literals: list[str]
    """The words that are to be seen, as far as they are given."""
    route: str
    """The road that would be taken."""
    why: list[str]
    policy: str
    verify: bool
    """Whether the result would be read before anybody is paid."""
    roads: list[RoadView]


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
    cache: CacheResult
    """How it came to its pictures: hit (they were there), shared (the same was being made for somebody else), miss, off."""
    usage: Spent
    warnings: list[Notice]
    moderation: list[ModerationNote]
    route: RouteView


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
    moderation: list[ModerationNote]
    cache: CacheResult | None
    """Succeeded: how it came to its pictures."""
    route: RouteView | None
    """Which road it took, once it has succeeded."""
    usage: Spent | None


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


class AssetView(msgspec.Struct, frozen=True):
    """A result, and how it was made."""

    id: str
    job: str
    format: str
    width: int
    height: int
    bytes: int
    seed: int
    created: float
    """Times are Unix seconds."""
    expires: float
    url: str
    parameters: str | None
    """As Stable Diffusion tools write it."""
    request: dict[str, Any] | None
    """What was asked for, without pictures and without what is as it would be anyway."""


class Adapters(msgspec.Struct, frozen=True):
    """GET /api/adapters: what models.yaml lists beside models."""

    loras: list[LoraCard]
    controlnets: list[ControlCard]
    ip_adapters: list[ReferenceCard]
    upscalers: list[UpscalerCard]


class NativeErrorBody(msgspec.Struct, frozen=True):
    """Every answer of this dialect with a status of 400 or above."""

    error: NativeError
