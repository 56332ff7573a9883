"""A text as it is read aloud: without its disguises, and with a way back to where each letter stood. Pure.

Undone are forms of compatibility (full width, mathematical, circled), accents, invisible characters, letters of other scripts
that look like Latin ones, digits and signs in the place of letters, letters set apart, and letters repeated.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

import msgspec

from server.gateway.moderation.lookalikes import ALIKE

_SIGNS = "@$!|+€¢¥§"
_PIECE = re.compile(rf"(?:[^\W_]|[{_SIGNS}])+")
"""A word, perhaps with signs for letters. Underscores part words, as in tags of image boards."""
_CHUNK = re.compile(r"\S+")
_RUN = re.compile(r"(.)\1\1")
_LONGEST_CHUNK = 60
"""Longer ones are no single word that somebody has taken apart."""
_SHORTEST_RUN = 3

_UNSEEN = frozenset("\u115f\u1160\u3164\uffa0\u034f")
"""Invisible, and letters or marks by their class; those of class Cf are found by it."""

_LEET: dict[int, int] = str.maketrans("0134578@$!|+€¢¥§69", "oieastbasiitecysgg")
_LEET_L = _LEET | dict.fromkeys(map(ord, "1|!"), ord("l"))


class Folded(msgspec.Struct, frozen=True):
    """A text without its disguises, letter by letter, but for what takes the words around to see."""

    text: str
    origins: tuple[int, ...] | None
    """Where each character stood before; None where all of them stand as they stood."""

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The place in the original of ``text[start:end]``, which is not empty."""
        if self.origins is None:
            return start, end
        return self.origins[start], self.origins[end - 1] + 1


class Word(msgspec.Struct, frozen=True):
    """Something that may be read as a word, in one way or several."""

    readings: tuple[str, ...]
    start: int
    """In the folded text."""
    end: int


def fold(text: str) -> Folded:
    """``text`` in small Latin letters as far as it looks like them; everything else as Unicode decomposes it."""
    if text.isascii():
        return Folded(text.lower(), None)
    letters: list[str] = []
    origins: list[int] = []
    for index, character in enumerate(text):
        for letter in _folded(character):
            letters.append(letter)
            origins.append(index)
    return Folded("".join(letters), tuple(origins))


def words(folded: str) -> tuple[Word, ...]:
    """The words of a folded text, in order."""
    return tuple(Word(readings(piece[0]), piece.start(), piece.end()) for piece in _PIECE.finditer(folded))


def readings(piece: str) -> tuple[str, ...]:
    """What ``piece`` may say: as it stands, with digits and signs read as letters, and without them."""
    if piece.isalpha():
        return (piece,)
    plain = piece.strip(_SIGNS)
    bare = "".join(letter for letter in piece if letter.isalpha())
    if not bare:
        return (plain or piece,)
    inner = piece.strip(_SIGNS + "0123456789")
    found = {plain: None, piece: None, bare: None, inner: None}
    for text in (inner, piece):
        found |= {text.translate(_LEET): None, text.translate(_LEET_L): None}
    return tuple(found)


def closed_up(folded: str, parts: tuple[Word, ...]) -> Iterator[Word]:
    """Words that punctuation may have taken apart (``n.u.d.e``, ``nu-de``): everything between two spaces as one."""
    index = 0
    for chunk in _CHUNK.finditer(folded):
        first = index
        while index < len(parts) and parts[index].end <= chunk.end():
            index += 1
        if index - first > 1 and chunk.end() - chunk.start() <= _LONGEST_CHUNK:
            text = "".join(folded[part.start : part.end] for part in parts[first:index])
            yield Word(readings(text), parts[first].start, parts[index - 1].end)


def spelled(folded: str, parts: tuple[Word, ...]) -> Iterator[tuple[str, tuple[Word, ...]]]:
    """Runs of three single letters or more, closed up, in every reading that has one letter for each: ``a n u d e``.

    A word may begin anywhere in them, as those that were single letters all along stand there too.
    """
    for single, run in groupby(parts, key=lambda part: part.end - part.start == 1):
        letters = tuple(run)
        if single and len(letters) >= _SHORTEST_RUN:
            text = "".join(folded[letter.start] for letter in letters)
            for reading in dict.fromkeys((text, text.translate(_LEET), text.translate(_LEET_L))):
                yield reading, letters


def squeezed(word: str) -> tuple[str, tuple[int, ...]]:
    """``word`` with each run of a letter as one, and how long the runs were."""
    runs = [(letter, sum(1 for _ in run)) for letter, run in groupby(word)]
    return "".join(letter for letter, _ in runs), tuple(count for _, count in runs)


def drawn_out(word: str) -> bool:
    """Whether a letter of ``word`` stands there three times or more in a row."""
    return _RUN.search(word) is not None


@lru_cache(maxsize=8192)
def _folded(character: str) -> str:
    if character in _UNSEEN:
        return ""
    if character in ALIKE:
        return ALIKE[character]
    letters: list[str] = []
    for part in unicodedata.normalize("NFKD", character):
        if unicodedata.category(part) in ("Mn", "Me", "Cf") or part in _UNSEEN:
            continue
        letters.append(ALIKE.get(part) or "".join(ALIKE.get(small, small) for small in part.casefold()))
    return "".join(letters)
