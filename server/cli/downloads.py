"""What `aquatint models pull` has to fetch for an entry of models.yaml: arguments of `python -m pipelines.families.pull`."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pipelines.contract.adapters import ControlCard, LoraCard, PreprocessorCard, ReferenceCard, UpscalerCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import UnknownModel
from pipelines.contract.preprocessing import find
from server.catalog.catalog import Catalog

_HUB = "hf:"
_ANY = "*.safetensors"
_CONTROL_PART = "controlnet"
"""Where a repository that holds more than a control network has it."""
_IMAGE_ENCODER = "image_encoder"

Arguments = tuple[str, ...]


class Wanted(msgspec.Struct, frozen=True):
    """One entry of models.yaml."""

    name: str
    """A model's id, or ``loras.NAME``, ``controlnets.NAME``, ``ip_adapters.NAME``, ``upscalers.NAME``, ``preprocessors.NAME``."""
    downloads: tuple[Arguments, ...]
    """One for each repository; none if everything is on this machine."""


def wanted(catalog: Catalog, name: str) -> Wanted:
    """The entry that ``name`` means, by id, alias, or section and name; raises `UnknownModel`."""
    section, dot, rest = name.partition(".")
    if dot and section in _SECTIONS and name not in catalog.cards:
        cards = getattr(catalog, section)
        card = cards.get(rest.casefold())
        if card is None:
            msg = f"models.yaml lists no {rest!r} under {section}:."
            raise UnknownModel(msg)
        return Wanted(f"{section}.{card.name}", _SECTIONS[section](card))
    card = catalog.card(name)
    return Wanted(card.id, model(card))


def everything(catalog: Catalog) -> tuple[Wanted, ...]:
    """All entries of models.yaml that have weights."""
    found = [Wanted(card.id, model(card)) for card in catalog.cards.values()]
    for section, downloads in _SECTIONS.items():
        found += [Wanted(f"{section}.{card.name}", downloads(card)) for card in getattr(catalog, section).values()]
    return tuple(found)


def model(card: ModelCard) -> tuple[Arguments, ...]:
    """Of a checkpoint: its own repository, and one for each part that is replaced."""
    replaced = {**card.text_encoders, **({} if card.vae is None else {"vae": card.vae})}
    found: list[Arguments] = []
    if card.source.startswith(_HUB):
        found.append((*_repository(card.source, card.revision), *(f"--without={name}" for name in replaced)))
    for name, source in replaced.items():
        if source is not None and source.startswith(_HUB):
            found.append((*_repository(source), f"--only={name}"))
    return tuple(found)


def _one_file(card: LoraCard | ReferenceCard | UpscalerCard) -> tuple[Arguments, ...]:
    if not card.source.startswith(_HUB):
        return ()
    return ((*_repository(card.source, card.revision), f"--one={card.file or _ANY}"),)


def _control(card: ControlCard) -> tuple[Arguments, ...]:
    if not card.source.startswith(_HUB):
        return ()
    return ((*_repository(card.source, card.revision), f"--only={_CONTROL_PART}"),)


def _reference(card: ReferenceCard) -> tuple[Arguments, ...]:
    encoder = card.image_encoder
    if encoder is None or not encoder.startswith(_HUB):
        return _one_file(card)
    path, at, revision = encoder.removeprefix(_HUB).partition("@")
    owner, name, *inner = path.split("/", 2)
    return (*_one_file(card), (f"{owner}/{name}{at}{revision}", f"--only={inner[0] if inner else _IMAGE_ENCODER}"))


def _preprocessor(card: PreprocessorCard) -> tuple[Arguments, ...]:
    weights = find(card.name).weights
    if not card.source.startswith(_HUB) or weights is None:
        return ()
    names = weights.files if card.file is None else (card.file,)
    return ((*_repository(card.source, card.revision), *(f"--file={name}" for name in names)),)


def _repository(source: str, revision: str | None = None) -> Arguments:
    return (source.removeprefix(_HUB), *(() if revision is None else (f"--revision={revision}",)))


_SECTIONS: Mapping[str, Callable[[Any], tuple[Arguments, ...]]] = {
    "loras": _one_file,
    "controlnets": _control,
    "ip_adapters": _reference,
    "upscalers": _one_file,
    "preprocessors": _preprocessor,
}
