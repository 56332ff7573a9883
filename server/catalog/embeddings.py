"""Textual inversions of models.yaml: words that prompts may use."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from pipelines.contract.catalog import EmbeddingCard
from pipelines.contract.family import Family
from server.catalog.positions import Document

_WORD = re.compile(r"[^\W_](?:[\w .+-]{0,62}\w)?")
"""What prompts can name without a sign that means something there."""


class EmbeddingEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``embeddings:``."""

    source: str
    """``file:PATH`` of a safetensors file."""
    family: Family


def embeddings(document: Document, entries: Mapping[str, EmbeddingEntry], folder: Path) -> tuple[EmbeddingCard, ...]:
    """The cards of ``entries``; relative paths start at ``folder``. Raises `CatalogError`."""
    known: dict[str, str] = {}
    cards: list[EmbeddingCard] = []
    for name, entry in entries.items():
        where = ("embeddings", name)
        if not _WORD.fullmatch(name):
            raise document.error(where, "a word for prompts is made of letters, digits, spaces and . _ + -")
        if name.lower() in known:
            raise document.error(where, f"prompts cannot tell it from {known[name.lower()]!r}: case does not matter there")
        if not entry.source.startswith("file:"):
            raise document.error((*where, "source"), "must be file:PATH of a safetensors file")
        known[name.lower()] = name
        path = (folder / Path(entry.source.removeprefix("file:")).expanduser()).absolute()
        cards.append(EmbeddingCard(name, f"file:{path}", entry.family))
    return tuple(cards)


def of_family(cards: Iterable[EmbeddingCard], family: Family) -> tuple[EmbeddingCard, ...]:
    """Those made for ``family``."""
    return tuple(card for card in cards if card.family is family)
