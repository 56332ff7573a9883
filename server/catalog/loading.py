"""models.yaml -> Catalog; every mistake is refused with file, line and field."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.family import Family
from pipelines.contract.samplers import check_noise, resolve
from server.catalog import adapters
from server.catalog.catalog import Catalog
from server.catalog.embeddings import EmbeddingEntry, embeddings, of_family
from server.catalog.policies import Policy, policies
from server.catalog.positions import CatalogError, Document, Where
from server.catalog.prices import UpstreamMoney, prices, taken
from server.catalog.routing import Chain, chains, check_chain, without_chain
from server.catalog.sources import located
from server.catalog.styles import StyleEntry, styles
from server.catalog.upstreams import Kind, Upstream, upstreams
from server.domain.generation import AUTO

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class _Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default_model: str
    fallback: Chain | None = None
    prices: dict[str, Any] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    server: _Server
    models: dict[str, Any]
    aliases: dict[str, str] = {}
    embeddings: dict[str, Any] = {}
    styles: dict[str, Any] = {}
    loras: dict[str, Any] = {}
    controlnets: dict[str, Any] = {}
    ip_adapters: dict[str, Any] = {}
    upscalers: dict[str, Any] = {}
    preprocessors: dict[str, Any] = {}
    tenants: dict[str, Any] = {}
    upstreams: dict[str, Any] = {}


_NOTHING: Mapping[str, str] = MappingProxyType({})


def load(path: Path | None, environ: Mapping[str, str] = _NOTHING) -> Catalog:
    """The catalog in ``path``; None means the one that comes with the package. ``environ`` says which upstreams have a key."""
    path = path or Path(__file__).with_name("models.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {error}"
        raise CatalogError(msg) from None
    return parse(text, name=str(path), folder=path.parent, environ=environ)


def parse(text: str, *, name: str, folder: Path, environ: Mapping[str, str] = _NOTHING) -> Catalog:
    """The catalog written in ``text``; ``name`` is for messages, relative paths start at ``folder``."""
    document = Document(name, text)
    file = document.convert((), document.value, _File)
    if not file.models:
        raise document.error(("models",), "at least one model is needed")
    words = embeddings(document, _entries(document, "embeddings", file.embeddings, EmbeddingEntry), folder)
    cards = {model: _card(document, model, without_chain(file.models[model]), folder) for model in file.models}
    cards = {model: replace(card, embeddings=of_family(words, card.family)) for model, card in cards.items()}
    for card in cards.values():
        _check_refiner(document, card, cards)
    if AUTO in cards:
        raise document.error(("models", AUTO), "this name leaves the choice to the server")
    roads = upstreams(document, file.upstreams, environ, cards)
    _check_aliases(document, file.aliases, cards, roads)
    default = file.server.default_model
    if default not in cards:
        raise document.error(("server", "default_model"), f"there is no model {default!r}")
    entered = taken(document, file.upstreams)
    # One that nobody had to write down has a model and a price, too.
    money = {name: replace(entered.get(name, UpstreamMoney()), model=upstream.model) for name, upstream in roads.items()}
    priced = {model: fields["prices"] for model, fields in file.models.items() if "prices" in fields}
    loras = adapters.loras(document, file.loras, folder)
    rules = policies(document, file.tenants)
    fallbacks = chains(document, file.models)
    if file.server.fallback is not None:
        fallbacks[""] = file.server.fallback
    _check_chains(document, fallbacks, rules, cards, roads)
    return Catalog(
        default_model=default,
        cards=MappingProxyType(cards),
        aliases=MappingProxyType(dict(file.aliases)),
        styles=styles(document, _entries(document, "styles", file.styles, StyleEntry), loras),
        loras=loras,
        controlnets=adapters.controlnets(document, file.controlnets, folder),
        ip_adapters=adapters.ip_adapters(document, file.ip_adapters, folder),
        upscalers=adapters.upscalers(document, file.upscalers, folder),
        preprocessors=adapters.preprocessors(document, file.preprocessors, folder),
        policies=rules,
        fallbacks=MappingProxyType(fallbacks),
        upstreams=roads,
        prices=prices(document, file.server.prices, priced, money),
    )


def _check_chains(
    document: Document,
    fallbacks: Mapping[str, Chain],
    rules: Mapping[str, Policy],
    cards: Mapping[str, ModelCard],
    roads: Mapping[str, Upstream],
) -> None:
    # openai needs no entry: it is there as soon as its key is.
    known = dict.fromkeys([*roads, Kind.OPENAI.value])
    for model, chain in fallbacks.items():
        check_chain(document, ("models", model, "fallback") if model else ("server", "fallback"), chain, cards, known)
    for tenant, policy in rules.items():
        check_chain(document, ("tenants", tenant, "routing", "fallback"), policy.routing.fallback or (), cards, known)


def _check_aliases(
    document: Document, aliases: Mapping[str, str], cards: Mapping[str, ModelCard], roads: Mapping[str, Upstream]
) -> None:
    # An alias may lead to OpenAI whether or not a key is there today.
    known = {AUTO, *cards, *(name for road in roads.values() for name in road.ids)}
    for alias, target in aliases.items():
        if alias in cards:
            raise document.error(("aliases", alias), "a model has this name already")
        if alias == AUTO or alias in roads:
            raise document.error(("aliases", alias), "this name means a road already")
        if target not in known:
            raise document.error(("aliases", alias), f"there is no model {target!r}")


def _card(document: Document, model: str, fields: object, folder: Path) -> ModelCard:
    where: Where = ("models", model)
    if not _ID.fullmatch(model):
        raise document.error(where, "an id is made of letters, digits and . _ / -")
    if not isinstance(fields, dict):
        raise document.error(where, "this must be a mapping with source and family")
    if "id" in fields:
        raise document.error((*where, "id"), "the id is the key above; leave this out")
    if "embeddings" in fields:
        raise document.error((*where, "embeddings"), "embeddings are listed beside models, each with its family")
    told = {name: value for name, value in fields.items() if name != "prices"}
    card = document.convert(where, {**told, "id": model}, ModelCard)
    card = located(document, where, card, folder)
    _check(document, where, card)
    return card


def _check(document: Document, where: Where, card: ModelCard) -> None:
    try:
        spec, _ = resolve(card.defaults.sampler, card.defaults.scheduler, flow=card.family.flow)
        check_noise(spec, zero_snr=bool(card.schedule.zero_snr), prediction_type=card.schedule.prediction_type or "epsilon")
    except InvalidRequest as error:
        raise document.error((*where, "defaults", error.param or "sampler"), error.message) from None
    if not 0 <= card.defaults.guidance_rescale <= 1:
        raise document.error((*where, "defaults", "guidance_rescale"), "must be from 0 to 1")
    _check_numbers(document, where, card)
    _check_skip_layers(document, (*where, "defaults", "skip_layers"), card)


def _check_refiner(document: Document, card: ModelCard, cards: Mapping[str, ModelCard]) -> None:
    refiner = card.defaults.refiner
    where: Where = ("models", card.id, "defaults", "refiner")
    if refiner is None:
        return
    if refiner.model not in cards:
        raise document.error((*where, "model"), f"there is no model {refiner.model!r}")
    other = cards[refiner.model].family
    if other is not card.family:
        msg = f"model {refiner.model!r} is of family {other.value!r}, and cannot finish what {card.family.value!r} began"
        raise document.error((*where, "model"), msg)
    if not 0 < refiner.switch_at < 1:
        raise document.error((*where, "switch_at"), "must be above 0 and below 1")


def _check_numbers(document: Document, where: Where, card: ModelCard) -> None:
    defaults, limits, multiple = card.defaults, card.limits, card.family.multiple
    for key in ("max_pixels", "max_steps", "max_rows", "max_images", "min_side"):
        if getattr(limits, key) < 1:
            raise document.error((*where, "limits", key), "must be 1 or more")
    for side in ("width", "height"):
        if getattr(defaults, side) % multiple or getattr(defaults, side) < limits.min_side:
            raise document.error((*where, "defaults", side), f"must be a multiple of {multiple}, {limits.min_side} or more")
    if defaults.width * defaults.height > limits.max_pixels:
        raise document.error((*where, "defaults", "width"), f"the default size is over max_pixels={limits.max_pixels}")
    if not 1 <= defaults.steps <= limits.max_steps:
        raise document.error((*where, "defaults", "steps"), f"must be from 1 to max_steps={limits.max_steps}")
    if not 0 < defaults.strength <= 1:
        raise document.error((*where, "defaults", "strength"), "must be above 0 and at most 1")
    for quality, steps in card.qualities.items():
        if not 1 <= steps <= limits.max_steps:
            raise document.error((*where, "qualities", quality), f"must be from 1 to max_steps={limits.max_steps}")


def _check_skip_layers(document: Document, where: Where, card: ModelCard) -> None:
    skip = card.defaults.skip_layers
    if skip is None:
        return
    if card.family is not Family.SD3:
        raise document.error(where, f"skip-layer guidance is for family sd3, not {card.family.value}")
    if not skip.layers or min(skip.layers) < 0:
        raise document.error((*where, "layers"), "name one block or more, counted from 0")
    if not 0 <= skip.start < skip.stop <= 1:
        raise document.error((*where, "start"), "must be from 0 to 1, and start before stop")


def _entries(document: Document, section: str, entries: dict[str, Any], kind: type[T]) -> dict[str, T]:
    return {name: document.convert((section, name), fields, kind) for name, fields in entries.items()}
