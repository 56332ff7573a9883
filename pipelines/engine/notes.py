"""What has been learned of row budgets, kept on disk: one JSON file per device, void once torch, the device or a card changes."""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pipelines.contract.catalog import Defaults, Limits, ModelCard
from pipelines.contract.messages import Phase
from pipelines.engine.budgets import Budgets, Learned
from pipelines.engine.row import Key


class Surroundings(msgspec.Struct, frozen=True):
    """What measured bytes depend on beside the card."""

    device: str
    """Its product name."""
    memory_bytes: int
    software: str
    """torch's version."""


class _Entry(msgspec.Struct, frozen=True):
    phase: Phase
    width: int
    height: int
    learned: Learned


class _Page(msgspec.Struct, frozen=True):
    card: str
    entries: list[_Entry]


class _Book(msgspec.Struct, frozen=True):
    surroundings: Surroundings
    pages: dict[str, _Page] = {}


class Notes:
    """Owns the file; what cannot be read is as good as not written."""

    def __init__(self, path: Path, surroundings: Surroundings, budgets: Budgets) -> None:
        """Read ``path`` if it is there and was written in the same ``surroundings``; keep what ``budgets`` learn."""
        self._path, self._surroundings, self._budgets = path, surroundings, budgets
        self._pages = dict(self._read().pages)
        self._cards: dict[str, str] = {}

    def recall(self, card: ModelCard) -> None:
        """Have the budgets know what was learned of ``card``'s model, if it was this very card; else have them forget it."""
        mark = _mark(card)
        if self._cards.get(card.id) == mark:
            return
        self._cards[card.id] = mark
        page = self._pages.get(card.id)
        if page is not None and page.card == mark:
            self._budgets.recall(card.id, {(e.phase, Key(card.id, e.width, e.height)): e.learned for e in page.entries})
        else:
            self._pages.pop(card.id, None)
            self._budgets.recall(card.id, {})

    def keep(self) -> None:
        """Write down what is news."""
        if not self._budgets.changed:
            return
        self._budgets.changed = False
        for model, mark in self._cards.items():
            entries = _entries(self._budgets.learned(model))
            if entries:
                self._pages[model] = _Page(mark, entries)
        book = msgspec.json.format(msgspec.json.encode(_Book(self._surroundings, self._pages)), indent=1)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(book)
            temporary.replace(self._path)
        except OSError as error:
            # Measuring again at the next start costs little; a full disk must not end anybody's request.
            sys.stderr.write(f"what was learned of row budgets cannot be kept in {self._path}: {error}\n")

    def _read(self) -> _Book:
        empty = _Book(self._surroundings)
        try:
            book = msgspec.json.decode(self._path.read_bytes(), type=_Book)
        except FileNotFoundError:
            return empty
        except (OSError, ValueError) as error:
            sys.stderr.write(f"{self._path} is ignored: {error}\n")
            return empty
        return book if book.surroundings == self._surroundings else empty


def file_name(surroundings: Surroundings) -> str:
    """One name for each kind of device: what was measured on one holds on its equals, and another card has a file of its own."""
    product = re.sub(r"[^a-z0-9]+", "-", surroundings.device.lower()).strip("-")
    return f"row-budgets-{product}.json"


def _entries(learned: Mapping[tuple[Phase, Key], Learned]) -> list[_Entry]:
    return [_Entry(phase, key.width, key.height, what) for (phase, key), what in learned.items()]


def _mark(card: ModelCard) -> str:
    """Equal for cards that load and run alike."""
    dull = {"defaults": Defaults(), "limits": Limits(), "qualities": {}, "preload": False, "pin": False}
    bare = msgspec.structs.replace(card, **dull, owned_by="", description="")
    return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()[:16]
