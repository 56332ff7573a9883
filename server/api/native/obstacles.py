"""What stands in the way of a plan: everything for which the key that asks would be refused. Pure, and nothing is counted.

What passes by itself in a moment is not looked at: requests in a minute, images at the same time, a queue that is full.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from pipelines.contract.errors import AquatintError, InvalidRequest
from server.api.errors import Forbidden
from server.api.native.bodies import GenerateRequest
from server.api.native.generating import Generation
from server.api.native.usage_bodies import Obstacle, Part
from server.catalog.catalog import Catalog
from server.catalog.routing import RoutePolicy
from server.domain.failures import BudgetSpent, QuotaSpent, UpstreamMisconfigured
from server.domain.generation import LOCAL
from server.domain.job import Order
from server.domain.key import Caller
from server.domain.spending import SECONDS_PER_DAY, Balance, Limit, Purse, month_of
from server.gateway.planning import Forecast

_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("count", "seeds"), "max_images"),
        **dict.fromkeys(("steps", "hires.steps"), "max_steps"),
        **dict.fromkeys(("size", "width"), "max_pixels"),
    }
)
"""Which of a model's limits an option may exceed."""
_ANYWAY: Mapping[str, int] = MappingProxyType({"max_images": 1000, "max_steps": 1000, "max_pixels": 64_000_000})
"""What is reckoned with all the same."""
_LONGEST_MONTH = 31


class Amount(msgspec.Struct, frozen=True):
    """What is to be made."""

    images: float
    """For the request, with variants and retries."""
    month: float | None = None
    """In a month."""


def conceived(
    body: GenerateRequest, catalog: Catalog, translate: Callable[[Catalog], Generation]
) -> tuple[Generation, list[Obstacle]]:
    """What ``body`` asks for whatever the limits of the model say to it, and what they say.

    ``translate`` makes it with a catalog. Raises what has another cause, or is beyond all limits.
    """
    refused: dict[str, InvalidRequest] = {}
    while True:
        try:
            return translate(catalog), [_obstacle(error) for error in refused.values()]
        except InvalidRequest as error:
            limit = _LIMITS.get(error.param or "")
            if limit in refused:
                raise refused[limit] from None  # it is too little, or beyond what is reckoned with
            card = catalog.card(body.model)
            if limit is None or card.id not in catalog.cards:
                raise
            refused[limit] = error
            card = replace(card, limits=replace(card.limits, **{limit: max(_ANYWAY[limit], getattr(card.limits, limit))}))
            catalog = replace(catalog, cards={**catalog.cards, card.id: card})


def of_roads(caller: Caller, order: Order, policy: RoutePolicy, roads: Iterable[Forecast]) -> list[Obstacle]:
    """The upstreams that the tenant's policy or the key closes."""
    found = []
    for name in (each.road for each in roads if each.road != LOCAL):
        if policy is RoutePolicy.LOCAL_ONLY:
            msg = f"The policy for this key allows our own models only, not {name!r}."
            found.append(_obstacle(InvalidRequest(msg, param="model"), road=name))
        # One that was asked for by name is judged by that, and may have been named with a model.
        elif name != order.road and not caller.may_use(name):
            msg = f"This key may not use {name!r}; it may use {', '.join(sorted(caller.models))}."
            found.append(_obstacle(Forbidden(msg, param="model"), road=name))
    return found


def of_quota(allowed: tuple[int, int] | None, amount: Amount, now: float) -> list[Obstacle]:
    """What the tenant's images of a day do not cover; ``allowed``: how many these are, and how many are left."""
    if allowed is None:
        return []
    found, (most, left) = [], allowed
    images = math.ceil(amount.images)
    if images > left:
        msg = f"{images} pictures are made; you may have {most} made in a day (UTC), and {left} are left today."
        later = SECONDS_PER_DAY - now % SECONDS_PER_DAY if images <= most else None
        found.append(_obstacle(QuotaSpent(msg, retry_after=later)))
    if amount.month is not None and amount.month > most * _LONGEST_MONTH:
        msg = f"{math.ceil(amount.month)} pictures are made in a month; you may have {most} made in a day (UTC)."
        found.append(_obstacle(QuotaSpent(msg), part=Part.MONTH))
    return found


def of_budgets(
    forecast: Forecast, limits: Iterable[Limit], balances: Mapping[Purse, Balance], amount: Amount, now: float
) -> list[Obstacle]:
    """What the budgets of an upstream do not cover, at the highest that it may cost."""
    found, road = [], forecast.road
    for limit in limits:
        if forecast.each is None:
            msg = f"There is a budget for {road!r}, and no price is known for {forecast.model!r}."
            return [_obstacle(UpstreamMisconfigured(msg), road=road)]
        balance = balances.get(limit.purse, Balance(limit.purse))
        left = max(0.0, limit.usd - balance.spent - balance.held)
        usd = forecast.each.high * amount.images
        if usd > left:
            what = f"{_named(limit)} in {month_of(now)}{_figure(limit, left)}"
            msg = f"What is left of {what} does not cover this, which may cost {usd:.4f}."
            found.append(_obstacle(BudgetSpent(msg), road=road))
        usd = forecast.each.high * (amount.month or 0.0)
        if usd > limit.usd:
            msg = f"{_named(limit)}{_figure(limit, limit.usd)} does not cover a month of this, which may cost {usd:.2f}."
            found.append(_obstacle(BudgetSpent(f"{msg[0].upper()}{msg[1:]}"), road=road, part=Part.MONTH))
    return found


def of_key(error: AquatintError) -> Obstacle:
    """What the key is refused for, whichever road it would take."""
    return _obstacle(error)


def _obstacle(error: AquatintError, *, road: str | None = None, part: Part = Part.REQUEST) -> Obstacle:
    return Obstacle(part, road, error.code, error.message, error.param, error.retry_after)


def _named(limit: Limit) -> str:
    whose = "your budget" if limit.purse.tenant else "this server's budget"
    return f"{whose} for {limit.purse.upstream!r}" if limit.purse.upstream else whose


def _figure(limit: Limit, usd: float) -> str:
    """What the caller may know: its own figures, not those of others."""
    return f" ({usd:.4f} US dollars)" if limit.purse.tenant else ""
