"""Words that are given without quotes, and things that are made to be read. Pure."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from server.gateway.text_refused import Refused
from server.gateway.text_signs import COLONS, COMMAS, STOPS, Evidence, after, before
from server.gateway.text_tokens import Token
from server.gateway.text_vocabulary import Kind, Kinds

_ALONE: dict[Kind, tuple[float, str]] = {
    Kind.MADE: (0.85, "is made to be read"),
    Kind.INTRO: (0.85, "announces words"),
    Kind.BARE: (0.8, "means that something is written"),
    Kind.TEXT: (0.7, "is writing"),
    Kind.LETTERS: (0.3, "may be writing"),
    Kind.SURFACE: (0.3, "often bears words"),
}
_CLOSING = frozenset({Kind.TEXT, Kind.LETTERS, Kind.BARE, Kind.MARKED})
"""What may stand behind words in capitals."""
_ANNOUNCING = _CLOSING | {Kind.SAYS, Kind.INTRO, Kind.SURFACE, Kind.MADE, Kind.NAMED}
"""What may stand before them."""
_SHORTHANDS = frozenset(
    [
        *(
            "hd",
            "hdr",
            "uhd",
            "raw",
            "3d",
            "2d",
            "4k",
            "8k",
            "16k",
            "dslr",
            "slr",
            "led",
        ),
        *(
            "ui",
            "ux",
            "gui",
            "dnd",
            "rgb",
            "cgi",
            "dj",
            "tv",
            "usa",
            "uk",
            "eu",
            "vr",
        ),
        *(
            "ar",
            "ai",
            "pbr",
            "iso",
            "nft",
            "diy",
            "pov",
            "nsfw",
            "sfw",
            "break",
            "and",
            "fov",
        ),
        *(
            "uhq",
            "hq",
            "jpg",
            "png",
            "ok",
            "crt",
            "sci",
            "fi",
            "ii",
            "iii",
            "iv",
        ),
    ]
)
_NOTHING = Refused(frozenset(), writing=False)
_NEAR, _MOST_LITERAL, _UPON = 4, 6, 9
_SHOUTED = 0.5
"""The share of capitals above which a prompt is shouted, and capitals mean nothing."""
_MARKS = STOPS | COMMAS | COLONS


def unquoted(row: Sequence[Token], refusals: Refused) -> Iterator[Evidence]:
    """Each piece of evidence in ``row`` outside of quotes and refusals."""
    quiet = _shouted(row)
    for place, token in enumerate(row):
        if place in refusals.places or token.quoted is not None:
            continue
        kinds = token.kinds
        if kinds:
            yield from _alone(row, place, kinds)
            if kinds & {Kind.SAYS, Kind.SHOWS, Kind.MARKED}:
                yield from _said(row, place, kinds, refusals)
            if Kind.GLYPH in kinds:
                yield from _glyph(row, place)
            if Kind.SIGN in kinds:
                yield from _sign(row, place)
        elif token.raw.isdigit():
            yield from _time(row, place)
        elif not quiet and _capital(token):
            yield from _capitals(row, place, refusals)


def _alone(row: Sequence[Token], place: int, kinds: Kinds) -> Iterator[Evidence]:
    token = row[place]
    behind = row[place + 1] if place + 1 < len(row) else None
    for kind, (usual, what) in _ALONE.items():
        if kind not in kinds:
            continue
        if kind is Kind.MADE and behind is not None and Kind.FEEL in behind.kinds:
            yield Evidence(0.3, f"'{token.raw} {behind.raw}' is a manner")
        elif kind is Kind.LETTERS and behind is not None and behind.word in COLONS:
            yield Evidence(0.85, f"'{token.raw}:' announces words")
        else:
            yield Evidence(usual, f"'{token.raw}' {what}", _following(row, place) if kind is Kind.INTRO else "")


def _said(row: Sequence[Token], place: int, kinds: Kinds, refusals: Refused) -> Iterator[Evidence]:
    """A verb beside the thing that bears the words."""
    token = row[place]
    behind = row[place + 1] if place + 1 < len(row) else None
    surface = _surface(row, place, _UPON if Kind.MARKED in kinds else _NEAR, refusals)
    if not surface or behind is None:
        bare = behind is None or behind.word in _MARKS
        if not surface or not (bare and Kind.MARKED in kinds):
            return
    if Kind.SAYS in kinds and behind is not None and behind.word not in _MARKS:
        yield Evidence(0.85, f"'{surface}' … '{token.raw}' announces words", _following(row, place))
    elif Kind.SHOWS in kinds and behind is not None and behind.raw[:1].isdigit():
        yield Evidence(0.8, f"'{surface}' shows '{behind.raw}'", behind.raw)
    elif Kind.MARKED in kinds and any(Kind.UPON in row[index].kinds for _, index in before(row, place, _UPON)):
        yield Evidence(0.85, f"'{surface}' … '{token.raw}' means that something is written")


def _surface(row: Sequence[Token], place: int, most: int, refusals: Refused) -> str:
    for _, index in before(row, place, most):
        if Kind.SURFACE in row[index].kinds and index not in refusals.places:
            return row[index].raw
    return ""


def _glyph(row: Sequence[Token], place: int) -> Iterator[Evidence]:
    for _, index in after(row, place, 2, commas=False):
        raw = row[index].raw
        if raw.isdigit() or _initial(row[index]):
            letters = [token.raw for token in takewhile(_initial, row[index:])]
            yield Evidence(0.85, f"'{row[place].raw} {raw}' is a letter or a figure", " ".join(letters) or raw)
            return


def _sign(row: Sequence[Token], place: int) -> Iterator[Evidence]:
    """A sign, a colon, words; a sign for something; a sign with a number."""
    raw = row[place].raw
    if any(Kind.FOR in row[index].kinds for _, index in after(row, place, 2, commas=False)):
        yield Evidence(0.65, f"'{raw}' announces something")
    for index in range(place + 1, min(place + _UPON, len(row) - 1)):
        token = row[index]
        if token.word in STOPS or token.quoted is not None:
            break
        if token.word in COLONS and row[index + 1].quoted is None and not _numeric(row, index):
            yield Evidence(0.75, f"'{raw}' … ':' announces words", _following(row, index))
            break
    beside = [row[index].raw for index in (place - 1, place + 1) if 0 <= index < len(row)]
    for number in (each for each in beside if each.isdigit()):
        yield Evidence(0.65, f"'{raw}' shows '{number}'", number)


def _numeric(row: Sequence[Token], colon: int) -> bool:
    return row[colon - 1].raw.isdigit() and row[colon + 1].raw.isdigit()


def _time(row: Sequence[Token], place: int) -> Iterator[Evidence]:
    """Hours and minutes beside something that shows them."""
    if place + 2 >= len(row) or row[place + 1].word != ":" or not row[place + 2].raw.isdigit():
        return
    surface = _surface(row, place, _UPON, _NOTHING)
    if surface:
        time = f"{row[place].raw}:{row[place + 2].raw}"
        yield Evidence(0.8, f"'{surface}' shows '{time}'", time)


def _initial(token: Token) -> bool:
    return token.raw.isupper() and len(token.raw) <= 3  # noqa: PLR2004 - initials


def _capital(token: Token) -> bool:
    return len(token.raw) > 1 and token.raw.isupper() and token.raw.isalpha() and token.word not in _SHORTHANDS


def _capitals(row: Sequence[Token], place: int, refusals: Refused) -> Iterator[Evidence]:
    """A word in capitals beside something that bears or announces words."""
    if place and _capital(row[place - 1]):
        return  # part of the words that began before
    if place and row[place - 1].word in COLONS:
        yield Evidence(0.75, f"{row[place].raw} stands in capitals after a colon", row[place].raw)
        return
    around = [
        *((index, _ANNOUNCING) for _, index in before(row, place, _NEAR)),
        *((index, _CLOSING) for _, index in after(row, place, 3, commas=False)),
    ]
    for index, wanted in around:
        if row[index].kinds & wanted and index not in refusals.places:
            words = " ".join(token.raw for token in takewhile(lambda each: _capital(each) or len(each.raw) == 1, row[place:]))
            yield Evidence(0.8, f"{words} stands in capitals beside '{row[index].raw}'", words)
            return


def _shouted(row: Sequence[Token]) -> bool:
    words = [token.raw for token in row if token.raw.isalpha()]
    return sum(map(str.isupper, words)) > _SHOUTED * max(len(words), 1)


def _following(row: Sequence[Token], place: int) -> str:
    """The words that follow, as far as they can be told from the rest; empty if a quotation does."""
    words: list[str] = []
    for index in range(place + 1, len(row)):
        token = row[index]
        if token.word in COLONS and not words:
            continue
        if token.quoted is not None or token.word in _MARKS or token.kinds & {Kind.STOP, Kind.MARKED, Kind.SURFACE}:
            break
        words.append(token.raw)
    return " ".join(words) if len(words) <= _MOST_LITERAL else ""
