"""Our own words into an order: pure."""

from collections.abc import Callable

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.request import Init
from server.api.checks import number, whole
from server.api.delivering import delivery, result
from server.api.native import recipes
from server.api.native.bodies import GenerateRequest, Notice
from server.api.options import OutputOption
from server.api.orders import MAX_GUIDANCE, MAX_SEED, Supplied, Terms, begun, check_prompt, ordered
from server.api.qualities import steps_for
from server.api.roads import on_road, wishes
from server.api.sizing import able, asked, natural
from server.catalog.catalog import Catalog
from server.catalog.sizes import nearest, warning
from server.domain.job import Order

MAX_PREVIEWS = 10


class Generation(msgspec.Struct, frozen=True):
    """An order, and what to say beside its result."""

    order: Order
    warnings: tuple[Notice, ...]


def generation(
    body: GenerateRequest,
    catalog: Catalog,
    supplied: Supplied,
    *,
    job_id: str,
    tenant: str,
    draw: Callable[[], int],
    followed: bool = False,
) -> Generation:
    """The order that ``body`` is; ``draw`` gives the seed if it has none."""
    card = catalog.card(body.model)
    # Before a recipe speaks for the caller.
    said = wishes(body, catalog, body.model, "guidance", "seeds", quality=body.quality)
    body = recipes.applied(body, supplied)
    start = begun(body, card, supplied)
    if start is None and body.strength is not None:
        msg = "'strength' goes with a picture to start from, and there is none."
        raise InvalidRequest(msg, param="strength")
    if body.previews and not followed:
        msg = "'previews' are for streamed answers (send the header 'Accept: text/event-stream') and for jobs."
        raise InvalidRequest(msg, param="previews")
    # Pictures can say it all: an erased part, a variation.
    check_prompt(body.prompt, "prompt", least=0 if start or body.references or body.controls else 1)
    output = body.output or OutputOption()
    terms = Terms(
        prompt=body.prompt,
        size=_size(body, card, start),
        seeds=_seeds(body, card, draw),
        steps=whole(body.steps, "steps", steps_for(body.quality, card), 1, card.limits.max_steps),
        guidance=number(body.guidance, "guidance", card.defaults.guidance, 0.0, MAX_GUIDANCE),
        delivery=delivery(output.format, output.quality, output.size, metadata=output.metadata),
        previews=whole(body.previews, "previews", 0, 0, MAX_PREVIEWS),
        seeded=body.seed is not None or body.seeds is not None,
    )
    order = ordered(body, terms, start, supplied, card=card, catalog=catalog, job_id=job_id, tenant=tenant)
    order = on_road(order, catalog, body.model, said)
    result(order)  # a size that cannot be is refused before any work
    return Generation(order, noted(body, order))


def noted(body: GenerateRequest, order: Order) -> tuple[Notice, ...]:
    """What to say beside the result of ``order``, which ``body`` has become."""
    card = next(each for each in order.cards if each.id == order.request.model)
    return tuple(_warnings(body, order, card))


def _size(body: GenerateRequest, card: ModelCard, start: Init | None) -> tuple[int, int]:
    """As it is said in one of three ways, or the natural one."""
    sides = body.width is not None or body.height is not None
    if sum((sides, body.size is not None, body.aspect_ratio is not None)) > 1:
        msg = "Of 'width' and 'height', 'size' and 'aspect_ratio', send one."
        raise InvalidRequest(msg, param="size")
    if sides:
        if body.width is None or body.height is None:
            param = "width" if body.width is None else "height"
            msg = f"'width' and 'height' go together; {param!r} is missing."
            raise InvalidRequest(msg, param=param)
        return able(body.width, body.height, card, "width")
    if body.aspect_ratio is not None:
        return nearest(body.aspect_ratio, card)
    return asked(body.size, card) or natural(start, card)


def _seeds(body: GenerateRequest, card: ModelCard, draw: Callable[[], int]) -> tuple[int, ...]:
    most = card.limits.max_images
    if body.seeds is None:
        count = whole(body.count, "count", 1, 1, most)
        first = draw() if body.seed is None else whole(body.seed, "seed", 0, 0, MAX_SEED)
        return tuple((first + index) & MAX_SEED for index in range(count))
    if body.seed is not None:
        msg = "Send 'seed' or 'seeds', not both."
        raise InvalidRequest(msg, param="seeds")
    whole(len(body.seeds), "seeds", 1, 1, most)
    if body.count is not None and body.count != len(body.seeds):
        msg = f"'count' is {body.count}, but there are {len(body.seeds)} 'seeds'; leave 'count' out."
        raise InvalidRequest(msg, param="count")
    return tuple(whole(seed, f"seeds[{index}]", 0, 0, MAX_SEED) for index, seed in enumerate(body.seeds))


def _warnings(body: GenerateRequest, order: Order, card: ModelCard) -> list[Notice]:
    found: list[Notice] = []
    start = order.request.init
    far = warning(order.request.width, order.request.height, card)
    if far is not None and (start is None or start.strength):
        found.append(Notice("size_far_from_native", far, "size"))
    sampling = order.request.sampling
    if body.negative_prompt and not sampling.guided:
        said = (
            "the model takes guidance as an input" if sampling.embedded_guidance else f"guidance is {sampling.guidance_scale:g}"
        )
        message = f"The negative prompt has no effect, as {said}."
        found.append(Notice("negative_prompt_unused", message, "negative_prompt"))
    return found
