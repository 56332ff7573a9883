"""What each road charges, and what an upstream may cost: read from the shipped table and from models.yaml.

What is made of these figures is in `server.catalog.pricing`.
"""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import msgspec

from server.catalog.positions import Document, Where

T = TypeVar("T")

ANY = "*"
"""Stands for every model of an upstream that has no price of its own."""

_NONE: Mapping[str, Any] = MappingProxyType({})
_SIZE = re.compile(r"(\d+)x(\d+)")

BySize = dict[str, float]
"""Keys are ``WIDTHxHEIGHT``, either way round."""


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens."""

    text_in: float = 0.0
    image_in: float = 0.0
    image_out: float = 0.0


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one model of an upstream charges; at least one of `tokens`, `per_image`, `credits`, `per_second`."""

    tokens: Tokens | None = None
    image_tokens: Literal["grid"] | dict[str, float | BySize] | None = None
    """How many output tokens a picture has, to estimate: OpenAI's formula, or by quality (and size)."""
    input_image_tokens: tuple[float, float] = (0.0, 0.0)
    """How many tokens each input picture has, from and to."""
    per_image: float | dict[str, float | BySize] | None = None
    """US dollars; one figure, or by quality (and size). Beside `tokens` it serves for the estimate only."""
    credits: float | None = None
    """Credits per picture."""
    credit_usd: float = 0.01
    per_second: float | None = None
    """US dollars per second of the upstream's device."""
    seconds: tuple[float, float] | None = None
    """How many seconds one request takes, from and to, to estimate."""


class UpstreamMoney(msgspec.Struct, frozen=True):
    """The money side of one entry of ``upstreams:``."""

    model: str = ""
    """What is asked for there; empty if the entry does not say."""
    monthly_budget_usd: float | None = None
    """What it may cost in a calendar month (UTC), all tenants together; None for no limit."""
    prices: Mapping[str, Price] = _NONE


class LocalMoney(msgspec.Struct, frozen=True):
    """What our own workers cost."""

    gpu_hour_usd: float = 0.0
    devices: Mapping[str, float] = _NONE
    """The same for a device that costs another price, by its name, such as ``cuda:1``."""
    per_megapixel_step: Mapping[str, float] = _NONE
    """By model: a price of our own making, for a million pixels times one network evaluation. It stands in for `gpu_hour_usd`."""


class Prices(msgspec.Struct, frozen=True):
    """Everything that costs money."""

    as_of: str = ""
    """The date of the shipped table."""
    table: Mapping[str, Price] = _NONE
    local: LocalMoney = LocalMoney()
    upstreams: Mapping[str, UpstreamMoney] = _NONE

    def price(self, road: str, model: str) -> Price | None:
        """What ``model`` charges on the road to an upstream; None if nobody knows.

        The upstream's own entry goes before the table; of a path such as ``edit/inpaint`` the last part will do.
        """
        own = self.upstreams[road].prices if road in self.upstreams else _NONE
        for name in (model, model.rpartition("/")[2]):
            if found := own.get(name) or self.table.get(name):
                return found
        return own.get(ANY)


class _Local(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gpu_hour_usd: float = 0.0
    devices: dict[str, float] = {}


class _Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    per_megapixel_step: float


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    as_of: date
    models: dict[str, Price]


def shipped() -> _Table:
    """The table that comes with the package."""
    path = Path(__file__).with_name("prices.yaml")
    document = Document(str(path), path.read_text(encoding="utf-8"))
    return document.convert((), document.value, _Table)


def prices(
    document: Document, server: Mapping[str, Any] | None, models: Mapping[str, Any], upstreams: Mapping[str, UpstreamMoney]
) -> Prices:
    """Everything that costs money; ``server`` and ``models`` are the keys ``prices`` of the server and of each model."""
    table = shipped()
    for model, price in table.models.items():
        _check_price(document, ("prices", model), price)
    local = _Local() if server is None else document.convert(("server", "prices"), server, _Local)
    _least(document, ("server", "prices", "gpu_hour_usd"), local.gpu_hour_usd)
    for device, usd in local.devices.items():
        _least(document, ("server", "prices", "devices", device), usd)
    steps = {}
    for model, entry in models.items():
        where: Where = ("models", model, "prices")
        steps[model] = document.convert(where, entry, _Model).per_megapixel_step
        _least(document, (*where, "per_megapixel_step"), steps[model])
    return Prices(
        as_of=table.as_of.isoformat(),
        table=MappingProxyType(table.models),
        local=LocalMoney(local.gpu_hour_usd, MappingProxyType(local.devices), MappingProxyType(steps)),
        upstreams=upstreams,
    )


def taken(document: Document, entries: Mapping[str, Any]) -> Mapping[str, UpstreamMoney]:
    """The money side of ``upstreams:``."""
    money: dict[str, UpstreamMoney] = {}
    for name, entry in entries.items():
        where: Where = ("upstreams", name)
        entry = {} if entry is None else entry  # noqa: PLW2901 - an empty entry is one
        if not isinstance(entry, dict):
            raise document.error(where, "this must be a mapping")
        budget = entry.get("monthly_budget_usd")
        if budget is not None:
            budget = document.convert((*where, "monthly_budget_usd"), budget, float)
            _least(document, (*where, "monthly_budget_usd"), budget)
        found = document.convert((*where, "prices"), entry.get("prices") or {}, dict[str, Price])
        for model, price in found.items():
            _check_price(document, (*where, "prices", model), price)
        asked = entry.get("model")
        money[name] = UpstreamMoney(asked if isinstance(asked, str) else "", budget, MappingProxyType(found))
    return MappingProxyType(money)


def _check_price(document: Document, where: Where, price: Price) -> None:
    ways = (price.tokens, price.per_image, price.credits, price.per_second)
    if all(way is None for way in ways):
        raise document.error(where, "say tokens, per_image, credits or per_second")
    if price.tokens is not None and price.image_tokens is None and price.per_image is None:
        raise document.error(where, "tokens need image_tokens or per_image, or nothing can be estimated")
    if price.per_second is not None and price.seconds is None:
        raise document.error(where, "per_second needs seconds: [FROM, TO], or nothing can be estimated")
    for name, figures in (("per_image", price.per_image), ("image_tokens", price.image_tokens)):
        _check_figures(document, (*where, name), figures)
    for name, pair in (("input_image_tokens", price.input_image_tokens), ("seconds", price.seconds or (0.0, 0.0))):
        if not 0 <= pair[0] <= pair[1]:
            raise document.error((*where, name), "must be [FROM, TO], from 0 up")
    tokens = price.tokens or Tokens()
    plain = (price.credits, price.credit_usd, price.per_second, tokens.text_in, tokens.image_in, tokens.image_out)
    for usd in plain:
        _least(document, where, usd or 0.0)


def _check_figures(document: Document, where: Where, figures: float | str | Mapping[str, float | BySize] | None) -> None:
    if isinstance(figures, int | float):
        _least(document, where, figures)
    if not isinstance(figures, Mapping):
        return
    if not figures:
        raise document.error(where, "name at least one quality")
    for quality, each in figures.items():
        if not isinstance(each, Mapping):
            _least(document, (*where, quality), each)
            continue
        if not each:
            raise document.error((*where, quality), "name at least one size")
        for size, figure in each.items():
            if not _SIZE.fullmatch(size):
                raise document.error((*where, quality, size), "must be a size such as 1024x1536")
            _least(document, (*where, quality, size), figure)


def _least(document: Document, where: Where, usd: float) -> None:
    if not 0 <= usd < float("inf"):
        raise document.error(where, "must be 0 or more")
