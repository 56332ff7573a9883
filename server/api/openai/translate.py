"""OpenAI's words into ours: pure functions from body, pictures and catalog to an order."""

from collections.abc import Callable
from typing import Literal

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest, Unsupported
from pipelines.contract.request import Init
from server.api.checks import number, whole
from server.api.delivering import Names, merged, result
from server.api.openai.schemas import ImageOptions
from server.api.orders import MAX_GUIDANCE, MAX_SEED, Supplied, Terms, begun, check_prompt, ordered
from server.api.qualities import QUALITY_WORDS, steps_for
from server.api.roads import on_road, transparent, wishes
from server.api.sizing import asked as asked_size
from server.api.sizing import natural
from server.catalog.catalog import Catalog
from server.domain.job import Order

MAX_PARTIALS = 3
_SHOWN_QUALITIES = ("low", "medium", "high", "xhigh", "max")
_NAMES = Names("output_format", "output_compression")

Form = Literal["url", "b64_json"]


class Asked(msgspec.Struct, frozen=True):
    """An order, and how its answer is to look."""

    order: Order
    form: Form
    quality: str
    stream: bool = False
    partial_images: int = 0


def generation(
    body: ImageOptions, catalog: Catalog, supplied: Supplied | None = None, *, job_id: str, tenant: str, draw: Callable[[], int]
) -> Asked:
    """A text-to-image order; ``draw`` gives the seed if the body has none."""
    card = catalog.card(body.model)
    supplied = supplied or Supplied()
    start = begun(body, card, supplied)
    size = asked_size(body.size, card) or natural(start, card)
    return _asked(body, size, start, supplied, card=card, catalog=catalog, job_id=job_id, tenant=tenant, draw=draw)


def edit(
    body: ImageOptions,
    catalog: Catalog,
    supplied: Supplied,
    *,
    job_id: str,
    tenant: str,
    draw: Callable[[], int],
) -> Asked:
    """An image-to-image order, or an inpainting one if there is a mask."""
    card = catalog.card(body.model)
    start = begun(body, card, supplied)
    if start is None:
        msg = "Missing required parameter: 'image'."
        raise InvalidRequest(msg, param="image")
    size = asked_size(body.size, card) or natural(start, card)
    return _asked(body, size, start, supplied, card=card, catalog=catalog, job_id=job_id, tenant=tenant, draw=draw)


def response_form(response_format: str | None, model: str | None) -> Form:
    """What the caller reads: clients of dall-e read only ``url`` unless they say otherwise, all others ``b64_json``."""
    if response_format == "url":
        return "url"
    if response_format == "b64_json":
        return "b64_json"
    if response_format is not None:
        msg = "'response_format' must be 'url' or 'b64_json'."
        raise InvalidRequest(msg, param="response_format")
    return "url" if (model or "").startswith("dall-e") else "b64_json"


def _asked(
    body: ImageOptions,
    size: tuple[int, int],
    start: Init | None,
    supplied: Supplied,
    *,
    card: ModelCard,
    catalog: Catalog,
    job_id: str,
    tenant: str,
    draw: Callable[[], int],
) -> Asked:
    check_prompt(body.prompt, "prompt", least=1)
    said = wishes(body, catalog, body.model, "guidance_scale", quality=body.quality, background=body.background)
    if (body.background or "auto") not in ("auto", "opaque") and not transparent(body.background, catalog, body.model):
        msg = "'background' can be 'opaque' or 'auto': these models do not make transparent images."
        raise Unsupported(msg, param="background")
    stream, partials = bool(body.stream), whole(body.partial_images, "partial_images", 0, 0, MAX_PARTIALS)
    terms = Terms(
        prompt=body.prompt,
        size=size,
        seeds=_seeds(body, card, draw),
        steps=whole(body.steps, "steps", steps_for(body.quality, card), 1, card.limits.max_steps),
        guidance=number(body.guidance_scale, "guidance_scale", card.defaults.guidance, 0.0, MAX_GUIDANCE),
        delivery=merged(body.output, body.output_format, body.output_compression, _NAMES),
        previews=partials if stream else 0,
        seeded=body.seed is not None,
    )
    order = ordered(body, terms, start, supplied, card=card, catalog=catalog, job_id=job_id, tenant=tenant)
    order = on_road(order, catalog, body.model, said)
    result(order)  # a size that cannot be is refused before any work
    shown = QUALITY_WORDS.get(body.quality or "", body.quality or "")
    return Asked(
        order=order,
        form=response_form(body.response_format, body.model),
        quality=shown if shown in _SHOWN_QUALITIES else "medium",
        stream=stream,
        partial_images=partials,
    )


def _seeds(body: ImageOptions, card: ModelCard, draw: Callable[[], int]) -> tuple[int, ...]:
    count = whole(body.n, "n", 1, 1, card.limits.max_images)
    first = draw() if body.seed is None else whole(body.seed, "seed", 0, 0, MAX_SEED)
    return tuple((first + index) & MAX_SEED for index in range(count))
