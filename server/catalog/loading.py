"""models.yaml -> Catalog; every mistake is refused with file, line and field."""

import re
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import InvalidRequest
from pipelines.contract.samplers import check_noise, resolve
from server.catalog.catalog import Catalog
from server.catalog.positions import CatalogError, Document, Where

T = TypeVar("T")

_SOURCES = ("bundled:", "dir:", "fake:")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_SIDE = 8


class _Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default_model: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    server: _Server
    models: dict[str, Any]
    aliases: dict[str, str] = {}


def load(path: Path | None) -> Catalog:
    """The catalog in ``path``; None means the one that comes with the package."""
    path = path or Path(__file__).with_name("models.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {error}"
        raise CatalogError(msg) from None
    return parse(text, name=str(path), folder=path.parent)


def parse(text: str, *, name: str, folder: Path) -> Catalog:
    """The catalog written in ``text``; ``name`` is for messages, relative paths start at ``folder``."""
    document = Document(name, text)
    file = _convert(document, (), document.value, _File)
    if not file.models:
        raise document.error(("models",), "at least one model is needed")
    cards = {model: _card(document, model, file.models[model], folder) for model in file.models}
    for alias, target in file.aliases.items():
        if alias in cards:
            raise document.error(("aliases", alias), "a model has this name already")
        if target not in cards:
            raise document.error(("aliases", alias), f"there is no model {target!r}")
    default = file.server.default_model
    if default not in cards:
        raise document.error(("server", "default_model"), f"there is no model {default!r}")
    return Catalog(default_model=default, cards=MappingProxyType(cards), aliases=MappingProxyType(dict(file.aliases)))


def _card(document: Document, model: str, fields: object, folder: Path) -> ModelCard:
    where: Where = ("models", model)
    if not _ID.fullmatch(model):
        raise document.error(where, "an id is made of letters, digits and . _ / -")
    if not isinstance(fields, dict):
        raise document.error(where, "this must be a mapping with source and family")
    if "id" in fields:
        raise document.error((*where, "id"), "the id is the key above; leave this out")
    card = _convert(document, where, {**fields, "id": model}, ModelCard)
    _check(document, where, card)
    if card.source.startswith("dir:"):
        absolute = (folder / Path(card.source.removeprefix("dir:")).expanduser()).absolute()
        return msgspec.structs.replace(card, source=f"dir:{absolute}")
    return card


def _check(document: Document, where: Where, card: ModelCard) -> None:
    if not card.source.startswith(_SOURCES):
        raise document.error((*where, "source"), f"must begin with one of {', '.join(_SOURCES)}")
    try:
        spec, _ = resolve(card.defaults.sampler, card.defaults.scheduler)
        check_noise(spec, zero_snr=bool(card.schedule.zero_snr), prediction_type=card.schedule.prediction_type or "epsilon")
    except InvalidRequest as error:
        raise document.error((*where, "defaults", error.param or "sampler"), error.message) from None
    if not 0 <= card.defaults.guidance_rescale <= 1:
        raise document.error((*where, "defaults", "guidance_rescale"), "must be from 0 to 1")
    _check_numbers(document, where, card)


def _check_numbers(document: Document, where: Where, card: ModelCard) -> None:
    defaults, limits = card.defaults, card.limits
    for key in ("max_pixels", "max_steps", "max_rows", "max_images", "min_side"):
        if getattr(limits, key) < 1:
            raise document.error((*where, "limits", key), "must be 1 or more")
    for side in ("width", "height"):
        if getattr(defaults, side) % _SIDE or getattr(defaults, side) < limits.min_side:
            raise document.error((*where, "defaults", side), f"must be a multiple of {_SIDE}, {limits.min_side} or more")
    if defaults.width * defaults.height > limits.max_pixels:
        raise document.error((*where, "defaults", "width"), f"the default size is over max_pixels={limits.max_pixels}")
    if not 1 <= defaults.steps <= limits.max_steps:
        raise document.error((*where, "defaults", "steps"), f"must be from 1 to max_steps={limits.max_steps}")
    if not 0 < defaults.strength <= 1:
        raise document.error((*where, "defaults", "strength"), "must be above 0 and at most 1")
    for quality, steps in card.qualities.items():
        if not 1 <= steps <= limits.max_steps:
            raise document.error((*where, "qualities", quality), f"must be from 1 to max_steps={limits.max_steps}")


def _convert(document: Document, where: Where, value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        inner = tuple(part for part in re.split(r"[.\[\]`]+", path) if part and part not in {"...", "key in "})
        unknown = re.search(r"unknown field `([^`]+)`", problem)
        if unknown is not None:
            inner = (*inner, unknown[1])
            problem = "there is no such setting"
        raise document.error((*where, *inner), problem) from None
