"""What stands in quotes: words to be seen, or a title, a name, a mood, something said? Judged by the words around. Pure."""

import re
from collections.abc import Iterator, Sequence

from server.gateway.quotations import TITLE_MARKS, WIDE, Quotation
from server.gateway.text_signs import COLONS, COMMAS, STOPS, Evidence, after, before
from server.gateway.text_tokens import Token
from server.gateway.text_vocabulary import Kind, Kinds

_NEAR, _FAR, _BEHIND = 8, 14, 5
_BEARING = frozenset({Kind.SURFACE, Kind.MADE, Kind.TEXT, Kind.BARE, Kind.INTRO})
_SAYING = frozenset({Kind.SAYS, Kind.INTRO, Kind.MARKED, Kind.BARE, Kind.TEXT, Kind.LETTERS, Kind.GLYPH})
_LITERAL = _SAYING | _BEARING
_FIGURATIVE = frozenset({Kind.STYLE, Kind.WORK, Kind.VOICE, Kind.FEEL})
_POSSESSIVE = re.compile(r"(?:['’]s|s['’])\s?$")
_MARKS = STOPS | COMMAS | COLONS
_THINGS = frozenset({Kind.SURFACE, Kind.SIGN, Kind.LETTERS})
_AS = frozenset({"as", "als", "comme", "como", "come"})
_MANY = 4
"""Words that are more than a name."""
_WHAT = {
    Kind.STYLE: "what the picture is to be like",
    Kind.WORK: "the title of a work",
    Kind.NAMED: "a name",
    Kind.VOICE: "something said, not written",
    Kind.FEEL: "a mood or a manner of speaking",
}


def quoted(prompt: str, row: Sequence[Token]) -> Iterator[Evidence]:
    """One piece of evidence for each quotation in ``row``."""
    for place, token in enumerate(row):
        if token.quoted is not None:
            yield _judged(prompt, row, place, token.quoted)


def _judged(  # noqa: PLR0911 - one for each rule
    prompt: str, row: Sequence[Token], place: int, each: Quotation
) -> Evidence:
    left = _left(row, place)
    right = _right(row, place)
    shown = each.text if len(each.text) <= 40 else f"{each.text[:39]}…"  # noqa: PLR2004 - enough to know it again
    adjacent = place + 1 < len(row) and Kind.SURFACE in row[place + 1].kinds
    possessive = _POSSESSIVE.search(prompt[max(0, each.start - 4) : each.start]) is not None
    if left is not None and left[1] & _FIGURATIVE and not left[1] & _SAYING and not adjacent:
        return _figure(shown, left[1] & _FIGURATIVE)
    if possessive and not adjacent and (right is None or not right[1] & _BEARING):
        return _figure(shown, frozenset({Kind.WORK}))
    if left is not None and Kind.NAMED in left[1]:
        if left[1] & _LITERAL or adjacent:
            return _words(each, shown, left[0], 0.85)
        return _figure(shown, frozenset({Kind.NAMED}))
    if left is not None and left[1] & _LITERAL and (left[1] - {Kind.SURFACE} or not _at_arms_length(row, place, each)):
        return _words(each, shown, left[0], 0.95 if left[1] & _SAYING else 0.9)
    if right is not None:
        if right[1] & _LITERAL:
            return _words(each, shown, right[0], 0.9)
        return _figure(shown, right[1])
    return _by_shape(row, place, each, shown)


def _left(row: Sequence[Token], place: int) -> tuple[str, Kinds] | None:
    """The word before that decides, with what it does; of a name or a work also what bears it."""
    for distance, index in before(row, place, _NEAR):
        token = row[index]
        if token.quoted is not None:
            return _left(row, index) if distance == 1 else None
        kinds = token.kinds
        if Kind.SHOWS in kinds and distance == 1:
            bearer = _bearer(row, index, _NEAR)
            return (bearer, frozenset({Kind.SURFACE})) if bearer else None
        if Kind.NAMED in kinds:
            bearer = _bearer(row, index, _FAR)
            return (bearer, kinds | {Kind.SURFACE}) if bearer else (token.raw, kinds - _LITERAL)
        if Kind.WORK in kinds and not kinds & _LITERAL:
            bearer = _bearer(row, index, _NEAR)
            return (bearer, frozenset({Kind.SURFACE})) if bearer else (token.raw, kinds)
        if kinds & (_LITERAL | _FIGURATIVE):
            return token.raw, kinds
    return None


def _bearer(row: Sequence[Token], place: int, most: int) -> str:
    """The nearest thing before that bears words, unless a work of art or a likeness comes first."""
    for _, index in before(row, place, most):
        kinds = row[index].kinds
        if kinds & _BEARING:
            return row[index].raw
        if kinds & _FIGURATIVE:
            return ""
    return ""


def _right(row: Sequence[Token], place: int) -> tuple[str, Kinds] | None:
    for distance, index in after(row, place, _BEHIND, commas=False):
        token = row[index]
        if distance == 1 and token.word in _AS:
            return token.raw, frozenset({Kind.STYLE})
        if token.quoted is not None:
            return None
        if distance > 1 and token.kinds and not token.kinds - _THINGS and Kind.SIGN not in token.kinds:
            continue  # a crown that somebody wears
        if token.kinds & (_LITERAL | {Kind.STYLE, Kind.FEEL, Kind.NAMED}):
            return token.raw, token.kinds
    return None


def _by_shape(row: Sequence[Token], place: int, each: Quotation, shown: str) -> Evidence:
    """Nothing around says what it is."""
    if each.mark in TITLE_MARKS:
        return _figure(shown, frozenset({Kind.WORK}))
    words = each.text.split()
    if _at_arms_length(row, place, each):
        return _figure(shown, frozenset({Kind.FEEL}))
    if each.text.isupper() and len(each.text) > 1:
        return _words(each, shown, "capitals", 0.7)
    if len(words) >= _MANY or (each.text[:1] >= WIDE and len(each.text) >= 2 * _MANY):
        return _words(each, shown, "its length", 0.65)
    if each.text[-1] in "!?！？":
        return _words(each, shown, each.text[-1], 0.6)
    return Evidence(0.4, f"“{shown}” may be a name or words to be seen")


def _at_arms_length(row: Sequence[Token], place: int, each: Quotation) -> bool:
    """A word or two in the run of a sentence: `a "cute" monster`."""
    wide = each.text[0] >= WIDE
    short = len(each.text) <= _MANY if wide else each.text[0].islower() and len(each.text.split()) < _MANY - 1
    following = row[place + 1] if place + 1 < len(row) else None
    leading = row[place - 1].word if place else "."
    return short and leading not in _MARKS and following is not None and following.word not in _MARKS and not following.kinds


def _words(each: Quotation, shown: str, because: str, score: float) -> Evidence:
    return Evidence(score, f"“{shown}” is to be seen ({because})", each.text, certain=score >= 0.85)  # noqa: PLR2004


def _figure(shown: str, kinds: Kinds) -> Evidence:
    what = next((_WHAT[kind] for kind in _WHAT if kind in kinds), "no words to be seen")
    return Evidence(0.1, f"“{shown}” is {what}")
