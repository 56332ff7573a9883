"""Finds what stands in quotes, in any script: and tells quotes from inches, feet, apostrophes and decades. Pure."""

import re

import msgspec

MOST = 32
"""Quotations that are looked at; who sends more gets no better answer for it."""
TRIED = 200
"""Marks that might begin one: each costs a look at `LONGEST` characters."""
LONGEST = 300
"""Characters between two quotes."""
WIDE = "\u2e80"
"""From here on scripts write no spaces between words."""

_CLOSERS = {
    '"': '"',
    "'": "'",
    "`": "`",
    "“": "”“",
    "”": "”",
    "„": "“”",
    "‘": "’",
    "‚": "‘’",
    "«": "»",
    "»": "«",
    "‹": "›",
    "›": "‹",
    "「": "」",
    "『": "』",
    "《": "》",
    "〈": "〉",
    "〝": "〟",
    "＂": "＂",
}
TITLE_MARKS = "《〈"
"""In Chinese these hold the title of a work, wherever it stands."""
_ALSO_APOSTROPHES = "'’`"
_OPENER = re.compile("[" + "".join(_CLOSERS) + "]")
_DECADE = re.compile(r"\d\d(?:s|er)?(?![\d'’])")


class Quotation(msgspec.Struct, frozen=True):
    """One literal; ``start`` and ``end`` are its place in the prompt, quotes included."""

    text: str
    mark: str
    start: int
    end: int


def quotations(prompt: str) -> tuple[Quotation, ...]:
    """What is quoted in ``prompt``, in order, at most `MOST`; one that is the whole prompt is no quotation."""
    found: list[Quotation] = []
    place = tried = 0
    while len(found) < MOST and tried < TRIED and (opener := _OPENER.search(prompt, place)):
        tried += 1
        start = opener.start()
        end = _closed(prompt, start)
        text = "" if end is None else prompt[start + 1 : end].strip()
        if end is None or not any(map(str.isalnum, text)):
            place = start + 1
            continue
        found.append(Quotation(text, prompt[start], start, end + 1))
        place = end + 1
    if len(found) == 1 and found[0].end - found[0].start == len(prompt.strip()):
        return ()
    return tuple(found)


def _closed(prompt: str, start: int) -> int | None:
    """Where the quotation that begins at ``start`` ends; None if it is none."""
    mark = prompt[start]
    before = prompt[start - 1] if start else " "
    after = prompt[start + 1] if start + 1 < len(prompt) else " "
    if before.isalnum() and before < WIDE:
        return None  # 24", dogs'
    if after.isspace() and mark not in "«“„「『":
        return None
    if mark in _ALSO_APOSTROPHES and not _may_quote(prompt, start, after):
        return None
    limit = min(len(prompt), start + 2 + LONGEST)
    line = prompt.find("\n", start, limit)
    limit = limit if line < 0 else line
    ends = [_closer(prompt, closer, start + 1, limit) for closer in _CLOSERS[mark]]
    return min((end for end in ends if end is not None), default=None)


def _may_quote(prompt: str, start: int, after: str) -> bool:
    """Not so of 'n', '90s and the like."""
    return after.isalnum() and prompt[start + 1 : start + 3] not in ("n'", "n’") and not _DECADE.match(prompt, start + 1)


def _closer(prompt: str, closer: str, place: int, limit: int) -> int | None:
    """The first ``closer``; of marks that are apostrophes too, the first at the end of a word."""
    while (end := prompt.find(closer, place, limit)) >= 0:
        after = prompt[end + 1] if end + 1 < len(prompt) else " "
        if closer not in _ALSO_APOSTROPHES or ((not after.isalnum() or after >= WIDE) and not prompt[end - 1].isspace()):
            return end
        place = end + 1
    return None
