"""Which roads a tenant's requests may take: section ``routing`` of an entry of `tenants:`; and chains of fallbacks."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from server.catalog.positions import Document, Where
from server.domain.generation import LOCAL

Chain = tuple[str, ...]
"""Roads to try after the first one: ``local``, ``local:MODEL`` or an upstream's name."""


class RoutePolicy(StrEnum):
    """How `AUTO` is decided."""

    LOCAL_ONLY = "local_only"
    """Nothing leaves the house, whatever is asked for and whatever fails."""
    PREFER_LOCAL = "prefer_local"
    """Upstreams are for when our own workers cannot."""
    AUTO = "auto"
    """What needs legible text goes upstream, the rest stays."""
    PREFER_UPSTREAM = "prefer_upstream"
    """Our own workers are for when upstreams cannot."""
    VERIFY = "verify"
    """Like auto, but what needs text is drawn here first and read by OCR; upstream only if the words are not there."""


class Routing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section."""

    policy: RoutePolicy = RoutePolicy.AUTO
    fallback: Chain | None = None
    """Over the model's and the server's; empty: none. None: theirs."""
    moderation_fallback: bool = False
    """Whether what one road refuses for what it shows may be tried on another."""
    ambiguous_fallback: Literal["never", "local", "any"] = "local"
    """After an upstream that may have done it, and charge for it: local costs no second fee."""
    drafts_local: bool = True
    """`quality: low` stays local."""
    overflow_seconds: Annotated[float, Meta(gt=0)] | None = None
    """Go upstream if the local queue is longer; None: wait."""


def entry(text: str) -> tuple[str, str]:
    """Road and model of an entry of a chain; the model is empty where the request's own is meant."""
    road, _, model = text.partition(":")
    return road, model


def chains(document: Document, models: Mapping[str, Any]) -> dict[str, Chain]:
    """The ``fallback`` of each model that has one; it is no part of its card, which workers compare."""
    found: dict[str, Chain] = {}
    for model, fields in models.items():
        if isinstance(fields, dict) and "fallback" in fields:
            found[model] = document.convert(("models", model, "fallback"), fields["fallback"], Chain)
    return found


def without_chain(fields: object) -> object:
    """A model's fields, as its card has them."""
    return {key: value for key, value in fields.items() if key != "fallback"} if isinstance(fields, dict) else fields


def check_chain(document: Document, where: Where, chain: Chain, models: Collection[str], upstreams: Collection[str]) -> None:
    """Raise `CatalogError` for an entry that leads nowhere."""
    for index, text in enumerate(chain):
        road, model = entry(text)
        if road == LOCAL and (model in models or text == LOCAL):
            continue
        # A key may be set tomorrow: openai is known even while it is off.
        if road in upstreams and not model:
            continue
        if road == LOCAL:
            problem = f"there is no model {model!r}"
        else:
            problem = f"there is no road {text!r}; there are local, local:MODEL, {', '.join(upstreams) or 'and no upstreams'}"
        raise document.error((*where, index), problem)
