"""What a prompt says must not be there: "no text", "without words or letters", "文字なし". Pure."""

from collections.abc import Sequence

import msgspec

from server.gateway.text_signs import COMMAS, STOPS, after, before
from server.gateway.text_tokens import Token, tokens
from server.gateway.text_vocabulary import Kind

_REACH = 5
"""Words that a refusal reaches across; each thing it refuses renews it."""
_BACK = 4
_WRITING = frozenset({Kind.TEXT, Kind.LETTERS, Kind.BARE})
_REFUSABLE = _WRITING | {Kind.MADE, Kind.SURFACE, Kind.MARKED, Kind.GLYPH, Kind.INTRO, Kind.SAYS}
_JOINS = frozenset({"and", "or", "nor", "und", "oder", "noch", "et", "ou", "ni", "y", "o", "e", "ed", "和", "或", "与", "や"})


class Refused(msgspec.Struct, frozen=True):
    """Which tokens are refused, and whether writing as such is."""

    places: frozenset[int]
    writing: bool
    by: str = ""


def refused(row: Sequence[Token]) -> Refused:
    """Every refusal in ``row``."""
    places: set[int] = set()
    by = ""
    for index, token in enumerate(row):
        kinds = token.kinds
        if Kind.BLANK in kinds:
            by = by or token.raw
        elif Kind.NOT in kinds:
            reached, word = _forward(row, index)
            places |= reached
            by = by or (word and f"{token.raw} {word}")
        elif Kind.WITHOUT in kinds:
            reached, word = _backward(row, index)
            places |= reached
            by = by or (word and f"{word}{token.raw}")
        elif Kind.EMPTY in kinds:
            places |= {near for near in range(max(0, index - 2), min(len(row), index + 3)) if Kind.SURFACE in row[near].kinds}
    return Refused(frozenset(places), writing=bool(by), by=by)


def refused_by_negative(negative: str) -> str:
    """The word by which a negative prompt refuses writing; empty if it only wants none that is badly written."""
    row = tokens(negative, ())
    for index, token in enumerate(row):
        if not token.kinds & _WRITING:
            continue
        near = [*before(row, index, 2, commas=False), *after(row, index, 1, commas=False)]
        if not any(Kind.BAD in row[place].kinds for _, place in near):
            return token.raw
    return ""


def _forward(row: Sequence[Token], start: int) -> tuple[set[int], str]:
    places: set[int] = set()
    word, left, other = "", _REACH, False
    for index in range(start + 1, len(row)):
        token = row[index]
        if not left or token.quoted or token.word in STOPS or token.kinds & {Kind.NOT, Kind.BLANK}:
            break
        if token.word in COMMAS and not _goes_on(row, index):
            break
        if token.kinds & _REFUSABLE:
            places.add(index)
            left = _REACH
            if token.kinds & _WRITING and not other:
                word = word or token.raw
            continue
        if Kind.STOP in token.kinds:
            break
        other = other or Kind.OTHER in token.kinds
        left -= 1
    return places, word


def _goes_on(row: Sequence[Token], comma: int) -> bool:
    """Whether what follows a comma is one more thing that is refused."""
    return comma + 1 < len(row) and (row[comma + 1].word in _JOINS or bool(row[comma + 1].kinds & _REFUSABLE))


def _backward(row: Sequence[Token], start: int) -> tuple[set[int], str]:
    places: set[int] = set()
    word = ""
    for index in range(start - 1, max(-1, start - 1 - _BACK), -1):
        token = row[index]
        if token.quoted or token.word in STOPS or token.word in COMMAS:
            break
        if token.kinds & _REFUSABLE:
            places.add(index)
            if token.kinds & _WRITING:
                word = word or token.raw
    return places, word
