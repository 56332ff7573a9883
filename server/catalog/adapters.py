"""What models.yaml lists beside models: LoRAs, control networks, IP-Adapters, upscalers, preprocessors."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from pipelines.contract.adapters import ControlCard, ControlKind, LoraCard, PreprocessorCard, ReferenceCard, UpscalerCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.family import Family
from pipelines.contract.loras import MAX_WEIGHT
from pipelines.contract.preprocessing import PreprocessorSpec, find
from server.catalog.positions import Document, Where
from server.catalog.sources import addressed, sourced

Card = TypeVar("Card", LoraCard, ControlCard, ReferenceCard, UpscalerCard, PreprocessorCard)

_NAME = re.compile(r"[^\W_](?:[\w ./+()-]{0,126}[\w.+)-])?")
"""What can stand in ``<lora:NAME:1>`` and in ``NAME:0.8``, and be typed."""
_LEAST_TILE, _MOST_TILE = 64, 4096
_REFERENCES = (Family.SD, Family.SDXL, Family.FAKE)
_KINDS = {
    ControlKind.UNION: (Family.SDXL, Family.FAKE),
    ControlKind.T2I_ADAPTER: (Family.SD, Family.SDXL, Family.FAKE),
}
"""Where diffusers has networks of a kind for some families only."""


def loras(document: Document, entries: Mapping[str, Any], folder: Path) -> Mapping[str, LoraCard]:
    """The cards of ``loras:``, by their names in small letters; raises `CatalogError`, as all of these do."""

    def check(where: Where, card: LoraCard) -> LoraCard:
        if not -MAX_WEIGHT <= card.weight <= MAX_WEIGHT:
            raise document.error((*where, "weight"), f"must be from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
        return sourced(document, where, card, ("bundled", "file", "hf"), folder, file=card.file)

    return _cards(document, "loras", entries, LoraCard, check)


def controlnets(document: Document, entries: Mapping[str, Any], folder: Path) -> Mapping[str, ControlCard]:
    """The cards of ``controlnets:``."""

    def check(where: Where, card: ControlCard) -> ControlCard:
        able = _KINDS.get(card.kind)
        if able is not None and card.family not in able:
            known = ", ".join(family.value for family in able if family is not Family.FAKE)
            raise document.error((*where, "kind"), f"kind {card.kind.value} is for family {known}, not {card.family.value}")
        if card.kind is ControlKind.UNION and not card.modes:
            raise document.error((*where, "modes"), "a union needs them: the number of each kind of control image")
        if card.kind is not ControlKind.UNION and card.modes:
            raise document.error((*where, "modes"), "only kind union has modes")
        if any(number < 0 for number in card.modes.values()):
            raise document.error((*where, "modes"), "numbers begin at 0")
        if card.preprocessor is not None:
            _known(document, (*where, "preprocessor"), card.preprocessor)
        return sourced(document, where, card, ("bundled", "dir", "file", "hf"), folder)

    return _cards(document, "controlnets", entries, ControlCard, check)


def ip_adapters(document: Document, entries: Mapping[str, Any], folder: Path) -> Mapping[str, ReferenceCard]:
    """The cards of ``ip_adapters:``."""

    def check(where: Where, card: ReferenceCard) -> ReferenceCard:
        if card.family not in _REFERENCES:
            raise document.error((*where, "family"), "IP-Adapters are for families sd and sdxl")
        if card.image_encoder is not None:
            encoder = addressed(document, (*where, "image_encoder"), card.image_encoder, ("dir", "hf"), folder, inner=True)
            card = msgspec.structs.replace(card, image_encoder=encoder)
        return sourced(document, where, card, ("bundled", "file", "hf"), folder, file=card.file)

    return _cards(document, "ip_adapters", entries, ReferenceCard, check)


def upscalers(document: Document, entries: Mapping[str, Any], folder: Path) -> Mapping[str, UpscalerCard]:
    """The cards of ``upscalers:``."""

    def check(where: Where, card: UpscalerCard) -> UpscalerCard:
        if not _LEAST_TILE <= card.tile <= _MOST_TILE:
            raise document.error((*where, "tile"), f"must be from {_LEAST_TILE} to {_MOST_TILE} pixels")
        return sourced(document, where, card, ("bundled", "file", "hf"), folder, file=card.file)

    return _cards(document, "upscalers", entries, UpscalerCard, check)


def preprocessors(document: Document, entries: Mapping[str, Any], folder: Path) -> Mapping[str, PreprocessorCard]:
    """The cards of ``preprocessors:``."""

    def check(where: Where, card: PreprocessorCard) -> PreprocessorCard:
        if _known(document, where, card.name).weights is None:
            raise document.error(where, "this preprocessor needs no weights; leave the entry out")
        return sourced(document, where, card, ("dir", "file", "hf"), folder, file=card.file)

    return _cards(document, "preprocessors", entries, PreprocessorCard, check)


def _known(document: Document, where: Where, name: str) -> PreprocessorSpec:
    try:
        return find(name)
    except InvalidRequest as error:
        raise document.error(where, error.message) from None


def _cards(
    document: Document, section: str, entries: Mapping[str, Any], kind: type[Card], check: Callable[[Where, Card], Card]
) -> Mapping[str, Card]:
    found: dict[str, Card] = {}
    for name, fields in entries.items():
        where: Where = (section, name)
        if not _NAME.fullmatch(name):
            raise document.error(where, "a name is made of letters, digits, spaces and . _ / + ( ) -")
        if not isinstance(fields, dict):
            raise document.error(where, "this must be a mapping with a source")
        if "name" in fields:
            raise document.error((*where, "name"), "the name is the key above; leave this out")
        folded = name.casefold()
        if folded in found:
            raise document.error(where, f"requests cannot tell it from {found[folded].name!r}: case does not matter there")
        found[folded] = check(where, document.convert(where, {**fields, "name": name}, kind))
    return MappingProxyType(found)
