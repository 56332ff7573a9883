"""The catalog as workers know it: every card under a name of its own, so that an old and a new card of a model can both be there.

The name is the model's id, ``@``, and a digest of what decides the weights and how they are run. Two cards that differ only in
what the server or the scheduler needs (defaults, limits, description, ...) have the same name: none is loaded again for those.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256

import msgspec

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.request import ImageRequest
from server.catalog.catalog import Catalog

_DIGITS = 8


class Roster(msgspec.Struct, frozen=True):
    """One catalog, by the names that workers know."""

    names: Mapping[str, str]
    """From ids to names."""
    cards: Mapping[str, ModelCard]
    """From names to cards."""
    eager: tuple[str, ...]
    """Names of the models to load without waiting for a request, the default model first."""


def roster(catalog: Catalog) -> Roster:
    """``catalog`` by the names that workers know."""
    names = {card.id: name_of(card) for card in catalog.cards.values()}
    cards = {names[card.id]: card for card in catalog.cards.values()}
    return Roster(names, cards, tuple(names[card.id] for card in catalog.preload))


def bare(card: ModelCard) -> ModelCard:
    """``card`` without what the server or the scheduler alone need: equal ones are the same weights, run in the same way."""
    return msgspec.structs.replace(
        card, defaults=Defaults(), limits=Limits(), qualities={}, preload=False, pin=False, owned_by="", description=""
    )


def name_of(card: ModelCard) -> str:
    """What workers call the model of ``card``."""
    return f"{card.id}@{sha256(msgspec.json.encode(bare(card))).hexdigest()[:_DIGITS]}"


def for_worker(name: str, card: ModelCard) -> ModelCard:
    """``card`` as a worker is told of it."""
    return msgspec.structs.replace(card, id=name)


def by_name(request: ImageRequest, names: Mapping[str, str]) -> ImageRequest:
    """``request`` with its models under the names that workers know; ``names`` is from ids."""
    refiner = request.refiner
    if refiner is not None:
        refiner = msgspec.structs.replace(refiner, model=names[refiner.model])
    return msgspec.structs.replace(request, model=names[request.model], refiner=refiner)


def in_plain_words(text: str, cards: Iterable[tuple[str, ModelCard]]) -> str:
    """A worker's message with ids in place of names: people know only those."""
    for name, card in cards:
        text = text.replace(name, card.id)
    return text
