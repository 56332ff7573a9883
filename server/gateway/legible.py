"""Are the words there? What was wanted against what OCR read: pure.

Case, accents, punctuation and spaces do not count; OCR is allowed one mistake for every `PER_MISTAKE` characters. A word that is
shorter must be read exactly, as its one wrong letter is what a bad picture looks like.
"""

import unicodedata
from collections.abc import Sequence

PER_MISTAKE = 8
_MOST_READ = 4_000
"""Characters of what was read; a picture with more is a page, and the words are looked for in its beginning."""


def missing(literals: Sequence[str], lines: Sequence[str]) -> tuple[str, ...]:
    """Those of ``literals`` that are not in ``lines``, read from top to bottom."""
    whole = normalised("".join(lines))[:_MOST_READ]
    return tuple(literal for literal in literals if not _there(normalised(literal), whole))


def normalised(text: str) -> str:
    """Letters and figures alone, without case, width and accents."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(character for character in plain if character.isalnum())


def distance_within(wanted: str, text: str) -> int:
    """The fewest insertions, deletions and replacements that make ``wanted`` a part of ``text``."""
    previous = [0] * (len(text) + 1)
    for row, letter in enumerate(wanted, 1):
        current = [row]
        for column, other in enumerate(text, 1):
            replaced = previous[column - 1] + (letter != other)
            current.append(min(replaced, previous[column] + 1, current[column - 1] + 1))
        previous = current
    return min(previous)


def _there(wanted: str, text: str) -> bool:
    if wanted in text:
        return True
    allowed = len(wanted) // PER_MISTAKE
    return allowed > 0 and distance_within(wanted, text) <= allowed
