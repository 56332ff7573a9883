"""A prompt as a row of words, each with what it does: see `server.gateway.text_vocabulary`. Pure."""

import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from server.gateway.quotations import Quotation
from server.gateway.text_vocabulary import WIDE_RANGES, Kind, Kinds, endings, vocabulary

MOST = 800
"""Words, or characters where a script has no spaces, that are looked at."""
_PLACE = "\ue000"
_TOKEN = re.compile(rf"[{WIDE_RANGES}ー{_PLACE}]|[^\W_{WIDE_RANGES}ー]+|[.!?;:,\n()、。，：；！？]")
_NONE: Kinds = frozenset()
_THINGS = frozenset({Kind.SURFACE, Kind.SIGN, Kind.MADE})
_COMPOUND = 8
"""Letters from which on a word may be made of two."""


class Token(NamedTuple):
    """A word, a phrase that does something, a mark, or a quotation."""

    word: str
    """In small letters; of a phrase the first word."""
    raw: str
    """As it was written; of a phrase all of it."""
    kinds: Kinds
    quoted: Quotation | None = None


def tokens(prompt: str, found: Sequence[Quotation]) -> list[Token]:
    """``prompt`` in order; what stands in quotes is one token, its words do nothing."""
    pieces: list[str] = []
    end = 0
    for each in found:
        pieces += (prompt[end : each.start].replace(_PLACE, " "), _PLACE)
        end = each.end
    pieces.append(prompt[end:].replace(_PLACE, " "))
    raws = [found.group() for found in islice(_TOKEN.finditer("".join(pieces)), MOST)]
    words = [raw.casefold() for raw in raws]
    quoted = iter(found)
    phrases, by_end = vocabulary(), endings()
    ends = tuple(by_end)
    row: list[Token] = []
    place = 0
    while place < len(words):
        word = words[place]
        if word == _PLACE:
            row.append(Token(word, word, _NONE, next(quoted)))
            place += 1
            continue
        length, kinds = 1, _NONE
        for phrase in phrases.get(word, ()):
            size = len(phrase.words)
            if size == 1 or tuple(words[place : place + size]) == phrase.words:
                length, kinds = size, phrase.kinds
                break
        if not kinds and word[-1:] == "s":
            kinds = _plural(word)
        if not kinds and len(word) >= _COMPOUND and word.endswith(ends):
            kinds = next(does for end, does in by_end.items() if word.endswith(end))
        quiet = Kind.QUIET in kinds
        raw = raws[place] if length == 1 else " ".join(raws[place : place + length])
        row.append(Token(word, raw, _NONE if quiet else kinds))
        place += length
    return row


def _plural(word: str) -> Kinds:
    """What a thing's English plural does, where the vocabulary has only the one."""
    for phrase in vocabulary().get(word[:-1], ()):
        if len(phrase.words) == 1:
            return phrase.kinds & _THINGS
    return _NONE
