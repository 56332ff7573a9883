"""Prompts held against lists of words: the server's own, and a tenant's. Pure; whole words only, whatever their disguise."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

import msgspec

from server.domain.verdict import OWN, Category
from server.gateway.moderation.normal import Word, closed_up, drawn_out, fold, spelled, squeezed, words
from server.gateway.moderation.terms import HARMLESS, SUGGESTIVE, TERMS, YOUNG

_YOUNG, _SUGGESTIVE, _HARMLESS, _ALLOWED = "young", "suggestive", "harmless", "allowed"
_NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen"),
)
_UNDER_AGE = rf"(?:1[0-7]|[1-9]|{'|'.join(_NUMBERS)})"
_AGE = re.compile(
    rf"(?<![\w.]){_UNDER_AGE}\W{{0,2}}(?:years?|yrs?|y)\W{{0,2}}(?:olds?|o)\b|\bage[ds]?\W{{1,3}}{_UNDER_AGE}\b(?!\s*years?\s+ago)"
)
_LETTERS_ONLY = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Scripts that put no space between words."""

_SHORTEST_SPELLED = 3
"""Letters of a word that is found where it is spelled out."""


class Hit(msgspec.Struct, frozen=True):
    """Something that was found, and where it stood."""

    category: str
    """Of `Category`, or `OWN`."""
    term: str
    """As it is listed; for the operator, never for the caller."""
    start: int
    """In the text as it was written."""
    end: int


class Reading(msgspec.Struct, frozen=True):
    """What lists say of a text."""

    hits: tuple[Hit, ...]
    young: bool
    """Somebody in it is, or looks, under age."""


class _Term(msgspec.Struct, frozen=True):
    kind: str
    text: str


class _Found(msgspec.Struct, frozen=True):
    kind: str
    term: str
    start: int
    end: int


class _Places:
    """Where things were found; a long text may have thousands, which is why nothing is held against each of them."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, found: Iterable[_Found]) -> None:
        places = sorted((each.start, each.end) for each in found)
        self._starts = [start for start, _ in places]
        self._ends = list(accumulate((end for _, end in places), max))
        """The furthest end of those that begin no later."""

    def cover(self, found: _Found) -> bool:
        """Whether ``found`` lies within one of them."""
        earlier = bisect_right(self._starts, found.start)
        return earlier > 0 and found.end <= self._ends[earlier - 1]


class Lists:
    """The server's lists with a tenant's own words beside them. Never changes."""

    __slots__ = ("_lengths", "_phrases", "_squeezed", "_stems", "_unspaced", "_words")

    def __init__(self, block: Iterable[str] = (), allow: Iterable[str] = ()) -> None:
        """``block`` and ``allow`` as a policy has them."""
        self._words: dict[str, list[_Term]] = {}
        self._stems: dict[int, dict[str, list[_Term]]] = {}
        self._squeezed: dict[str, list[tuple[tuple[int, ...], _Term]]] = {}
        self._phrases: dict[str, list[tuple[tuple[str, ...], bool, _Term]]] = {}
        self._unspaced: list[tuple[str, _Term]] = []
        for category, terms in TERMS.items():
            self._add(category.value, terms)
        self._add(_YOUNG, YOUNG)
        self._add(_SUGGESTIVE, SUGGESTIVE)
        self._add(_HARMLESS, HARMLESS)
        self._add(OWN, block)
        self._add(_ALLOWED, allow)
        self._lengths = sorted(length for length in {*map(len, self._words), *self._stems} if length >= _SHORTEST_SPELLED)

    def read(self, *texts: str) -> Reading:
        """What is found in texts that make one picture together.

        Somebody under age in one of them, and something sexual in another, is ``sexual/minors``; no allowance changes that.
        """
        hits: list[Hit] = []
        young: list[Hit] = []
        sexual: list[Hit] = []
        for text in texts:
            folded = fold(text)
            found = list(dict.fromkeys(self._found(folded.text)))
            harmless = _Places(each for each in found if each.kind == _HARMLESS)
            allowed = _Places(each for each in found if each.kind == _ALLOWED)
            for each in found:
                if each.kind in (_HARMLESS, _ALLOWED) or harmless.cover(each):
                    continue
                hit = Hit(each.kind, each.term, *folded.origin(each.start, each.end))
                if each.kind == _YOUNG:
                    young.append(hit)
                elif each.kind == _SUGGESTIVE:
                    sexual.append(hit)
                else:
                    if each.kind == Category.SEXUAL:
                        sexual.append(hit)
                    if each.kind == Category.SEXUAL_MINORS or not allowed.cover(each):
                        hits.append(hit)
        if young and sexual:
            hits += [
                Hit(Category.SEXUAL_MINORS.value, f"{young[0].term} + {sexual[0].term}", place.start, place.end)
                for place in (young[0], sexual[0])
            ]
        minors = bool(young) or any(hit.category == Category.SEXUAL_MINORS for hit in hits)
        return Reading(tuple(dict.fromkeys(hits)), minors)

    def _add(self, kind: str, terms: Iterable[str]) -> None:
        for text in terms:
            term = _Term(kind, text)
            stem = text.strip().endswith("*")
            folded = fold(text.strip().removesuffix("*")).text
            if _LETTERS_ONLY.search(folded):
                self._unspaced.append(("".join(folded.split()), term))
                continue
            parts = tuple(part.readings[0] for part in words(folded))
            if len(parts) > 1:
                self._phrases.setdefault(parts[0], []).append((parts[1:], stem, term))
            elif stem:
                self._stems.setdefault(len(parts[0]), {}).setdefault(parts[0], []).append(term)
            else:
                self._words.setdefault(parts[0], []).append(term)
            if len(parts) == 1:
                letters, counts = squeezed(parts[0])
                self._squeezed.setdefault(letters, []).append((counts, term))

    def _found(self, text: str) -> Iterator[_Found]:
        parts = words(text)
        for index, part in enumerate(parts):
            yield from self._in_word(part)
            yield from self._in_phrases(parts, index)
        for part in closed_up(text, parts):
            yield from self._in_word(part)
        for run, letters in spelled(text, parts):
            yield from self._in_run(run, letters)
        for age in _AGE.finditer(text):
            yield _Found(_YOUNG, "an age below 18", age.start(), age.end())
        if self._unspaced and _LETTERS_ONLY.search(text):
            yield from self._in_unspaced(text)

    def _in_word(self, part: Word) -> Iterator[_Found]:
        for reading in part.readings:
            for term in self._words.get(reading, ()):
                yield _Found(term.kind, term.text, part.start, part.end)
            for length, stems in self._stems.items():
                if length <= len(reading):
                    for term in stems.get(reading[:length], ()):
                        yield _Found(term.kind, term.text, part.start, part.end)
            if drawn_out(reading):
                letters, counts = squeezed(reading)
                for least, term in self._squeezed.get(letters, ()):
                    if all(count >= wanted for count, wanted in zip(counts, least, strict=True)):
                        yield _Found(term.kind, term.text, part.start, part.end)

    def _in_run(self, run: str, letters: tuple[Word, ...]) -> Iterator[_Found]:
        for length in self._lengths:
            for start in range(len(run) - length + 1):
                text = run[start : start + length]
                for term in (*self._words.get(text, ()), *self._stems.get(length, {}).get(text, ())):
                    yield _Found(term.kind, term.text, letters[start].start, letters[start + length - 1].end)

    def _in_phrases(self, parts: tuple[Word, ...], index: int) -> Iterator[_Found]:
        for first in parts[index].readings:
            for rest, stem, term in self._phrases.get(first, ()):
                end = index + len(rest)
                if end < len(parts) and all(
                    _says(part, word, stem=stem and place == len(rest) - 1)
                    for place, (part, word) in enumerate(zip(parts[index + 1 : end + 1], rest, strict=True))
                ):
                    yield _Found(term.kind, term.text, parts[index].start, parts[end].end)

    def _in_unspaced(self, text: str) -> Iterator[_Found]:
        places = [index for index, letter in enumerate(text) if not letter.isspace()]
        dense = "".join(text[index] for index in places)
        for wanted, term in self._unspaced:
            start = dense.find(wanted)
            while start >= 0:
                yield _Found(term.kind, term.text, places[start], places[start + len(wanted) - 1] + 1)
                start = dense.find(wanted, start + 1)


def _says(part: Word, word: str, *, stem: bool) -> bool:
    return any(reading == word or (stem and reading.startswith(word)) for reading in part.readings)
