"""Which road an order takes, what its caller said for it, and what a named upstream has to refuse: pure."""

import msgspec

from pipelines.contract.errors import Unsupported
from server.api.options import Shaping
from server.catalog.catalog import Catalog
from server.domain.generation import Route
from server.domain.job import Order
from server.domain.wishes import AUTO_WORD, Wishes
from server.providers.capabilities import abilities, lacking, unsaid

ROUTE_HEADER = "x-aquatint-route"
REASON_HEADER = "x-aquatint-route-reason"
_MOST_REASON = 500
"""Characters; proxies refuse long headers."""


def wishes(
    options: Shaping, catalog: Catalog, model: str | None, *names: str, quality: str | None = None, background: str | None = None
) -> Wishes:
    """What the caller said beyond the request; ``names`` are the dialect's own options.

    Raises `Unsupported` for an option that the upstream which ``model`` names does not have at all.
    """
    fields = (*Shaping.__struct_fields__, *names)
    said = tuple(name for name in fields if (value := getattr(options, name)) is not None and value is not False)
    upstream = catalog.upstreams.get(catalog.road(model))
    if upstream is not None:
        card = catalog.card(model)
        _refuse(upstream.name, unsaid(abilities(upstream, catalog.asked(upstream, card.id)), said))
    return Wishes(quality or AUTO_WORD, background or AUTO_WORD, said)


def on_road(order: Order, catalog: Catalog, model: str | None, said: Wishes) -> Order:
    """``order`` on the road that ``model`` names; raises `Unsupported` for what a named upstream cannot do of it."""
    road = catalog.road(model)
    upstream = catalog.upstreams.get(road)
    if upstream is not None:
        _refuse(road, lacking(upstream, catalog.asked(upstream, order.request.model), order.request, said, order.delivery))
    return msgspec.structs.replace(order, road=road, wishes=said)


def transparent(background: str | None, catalog: Catalog, model: str | None) -> bool:
    """Whether a transparent background is asked for of an upstream, which may be able to."""
    return background == "transparent" and catalog.road(model) in catalog.upstreams


def _refuse(road: str, options: tuple[str, ...]) -> None:
    if options:
        more = f" (nor {', '.join(options[1:])})" if options[1:] else ""
        msg = f"The upstream {road!r} cannot do {options[0]!r}{more}; leave it out, or name a model of this server."
        raise Unsupported(msg, param=options[0])


def route_headers(route: Route) -> dict[str, str]:
    """The road that was taken, and why, for answers whose bodies have no place for it."""
    said = "; ".join([*route.reasons, *(f"{each.road}: {each.code}" for each in route.tried)])
    # What the caller wrote is quoted in reasons: headers are ASCII on one line.
    plain = "".join(character if " " <= character <= "~" else "?" for character in said.translate(_QUOTES))
    return {ROUTE_HEADER: route.road, **({REASON_HEADER: plain[:_MOST_REASON]} if plain else {})}


_QUOTES = str.maketrans({"“": "'", "”": "'", "…": "..."})
