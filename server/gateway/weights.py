"""Tells weights from others that were, or will be, under the same name: what a card's sources hold at this moment.

A source that says ``file:`` or ``dir:`` is known by names, sizes and times of its files, one that says ``hf:`` by the commit that
its revision stands for in the hub's cache; ``bundled:`` comes with the package, whose version says it.
"""

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from server.domain.clock import Clock

FRESH_SECONDS = 2.0
"""So long what was seen of a source is believed."""
_REMEMBERED = 1000
_MOST_FILES = 10_000
_SCHEMES = ("file:", "dir:", "hf:")
_COMMIT = re.compile(r"[0-9a-f]{40}")

Source = tuple[str, str]
"""As a card writes it, and its revision if it is of the hub."""


class Weights:
    """Marks of sources: equal as long as nobody has touched the files."""

    __slots__ = ("_clock", "_named", "_seen")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._named: dict[bytes, list[Source]] = {}
        """The sources of cards, by the cards as msgpack."""
        self._seen: dict[Source, tuple[str, float]] = {}

    async def marks(self, cards: Sequence[msgspec.Struct]) -> list[str]:
        """One for each source that ``cards`` name, in an order that depends on nothing else."""
        wanted = self._sources(cards)
        now = self._clock.monotonic()
        stale = [source for source in wanted if now - self._seen.get(source, ("", float("-inf")))[1] >= FRESH_SECONDS]
        if stale:
            if len(self._seen) > _REMEMBERED:
                self._seen.clear()
            found = await asyncio.to_thread(lambda: {source: mark(*source) for source in stale})
            self._seen.update({source: (seen, now) for source, seen in found.items()})
            return [found[source] if source in found else self._seen[source][0] for source in wanted]
        return [self._seen[source][0] for source in wanted]

    def _sources(self, cards: Sequence[msgspec.Struct]) -> list[Source]:
        key = msgspec.msgpack.encode(cards)
        found = self._named.get(key)
        if found is None:
            if len(self._named) >= _REMEMBERED:
                self._named.clear()
            found = self._named[key] = sorted({source for card in cards for source in sources(msgspec.to_builtins(card))})
        return found


def sources(card: Any) -> Iterator[Source]:
    """Every source anywhere in ``card``, given as plain values; those of the hub with the card's revision."""
    revision = card.get("revision") if isinstance(card, dict) else None
    for value in card.values() if isinstance(card, dict) else card:
        if isinstance(value, str) and value.startswith(_SCHEMES):
            yield value, str(revision or "")
        elif isinstance(value, (dict, list, tuple)):
            yield from sources(value)


def mark(source: str, revision: str) -> str:
    """What tells the weights at ``source`` from others; says so too if there are none."""
    scheme, _, rest = source.partition(":")
    if scheme == "hf":
        repository, _, named = rest.partition("@")
        return f"{source} {_commit(repository, named or revision or 'main')}"
    path = Path(rest)
    try:
        files = [path] if scheme == "file" else sorted(each for each in path.rglob("*") if each.is_file())[:_MOST_FILES]
        stats = [(str(each.relative_to(path)), each.stat()) for each in files]
    except OSError as error:
        return f"{source} {type(error).__name__}"
    return f"{source} " + " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)


def _commit(repository: str, revision: str) -> str:
    """What ``revision`` stands for in the hub's cache: the same file that its library goes by."""
    if _COMMIT.fullmatch(revision):
        return revision
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub").expanduser()
    try:
        return (cache / f"models--{repository.replace('/', '--')}" / "refs" / revision).read_text().strip()
    except OSError:
        return revision
