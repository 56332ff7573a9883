"""What was spent, and what would be: bodies of the native dialect."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from server.api.native.bodies import GenerateRequest, Notice


class Group(StrEnum):
    """What a line of usage is of, beside road and model."""

    DAY = "day"
    MONTH = "month"
    MODEL = "model"
    """The whole time asked for."""


class UsageLine(msgspec.Struct, frozen=True):
    """What was used of one model on one road."""

    period: str | None
    """``2026-11-22`` or ``2026-11`` (UTC); null for the whole time asked for."""
    tenant: str
    road: str
    """``local``, or the upstream's name."""
    model: str
    requests: int
    images: int
    usd: float
    unconfirmed_usd: float
    """How much of `usd` no upstream has confirmed: it is estimated."""
    gpu_seconds: float
    usd_per_image: float | None
    """null where there are no images."""
    seconds_per_image: float | None
    """Waiting included."""
    input_text_tokens: int
    input_image_tokens: int
    output_tokens: int


class RoadLine(msgspec.Struct, frozen=True):
    """One road beside the others, by its real figures."""

    road: str
    images: int
    usd: float
    usd_per_image: float | None
    images_per_usd: float | None
    seconds_per_image: float | None
    gpu_seconds_per_image: float | None


class BudgetLine(msgspec.Struct, frozen=True):
    """One limit, as it stands this month."""

    tenant: str | None
    """null: of all tenants together."""
    upstream: str | None
    """null: on all upstreams together."""
    month: str
    limit_usd: float
    spent_usd: float
    held_usd: float
    """Set aside for requests that run now."""
    left_usd: float


class UsageReport(msgspec.Struct, frozen=True):
    """GET /api/usage."""

    since: str
    """The first day, UTC."""
    until: str
    """The day after the last."""
    data: list[UsageLine]
    compare: list[RoadLine]
    budgets: list[BudgetLine]


class EstimateRequest(GenerateRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/estimate: a request to make images, and how often it will be made."""

    variants: Annotated[int | None, Meta(description="Pictures made for each one that is kept, 1 to 1000; absent: 1.")] = None
    retries: Annotated[
        float | None, Meta(description="How many more are made because some fail or do not please: 0.2 is a fifth. Absent: 0.")
    ] = None
    images_per_month: Annotated[int | None, Meta(description="Pictures kept in a month, to plan its cost.")] = None


class Dollars(msgspec.Struct, frozen=True):
    """From and to, in US dollars."""

    low: float
    high: float


class Seconds(msgspec.Struct, frozen=True):
    """How long it takes."""

    wait: float
    """Until it would begin, by what waits now."""
    work: float
    """All of it one after another on one device; at an upstream, by the mean of the last 30 days."""


class RoadEstimate(msgspec.Struct, frozen=True):
    """One road's answer."""

    road: str
    model: str
    usd_per_image: Dollars | None
    """null where nothing is known: no price, or no measurement yet."""
    usd: Dollars | None
    """This request, with variants and retries."""
    month_usd: Dollars | None
    """`images_per_month`, with variants and retries."""
    month_gpu_hours: float | None
    seconds: Seconds | None
    why: str | None
    """Why something is null."""


class Part(StrEnum):
    """Which part of a plan."""

    REQUEST = "request"
    """This request, with variants and retries."""
    MONTH = "month"
    """`images_per_month`, with variants and retries."""


class Obstacle(msgspec.Struct, frozen=True):
    """Something for which the key that asks would be refused, as it stands now."""

    part: Part
    road: str | None
    """The one that is closed by it; null: whichever road is taken."""
    code: str
    """As in the `error` of a job, such as ``forbidden``, ``too_large``, ``quota_spent``, ``budget_spent``."""
    message: str
    param: str | None
    """The option at fault."""
    retry_after: float | None
    """Seconds until it is so no more, where that is known."""


class Estimate(msgspec.Struct, frozen=True):
    """The answer to POST /api/estimate; nothing was made."""

    images: float
    """Pictures made for this request: count x variants x (1 + retries)."""
    month_images: float | None
    roads: list[RoadEstimate]
    obstacles: list[Obstacle]
    """What stands in the way of it; empty: it would be accepted, and every road is open."""
    prices_as_of: str
    """The date of the price table that came with this version."""
    warnings: list[Notice]
