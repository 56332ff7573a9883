"""One piece of evidence for or against writing, and what its finders share."""

from collections.abc import Iterator, Sequence

import msgspec

from server.gateway.text_tokens import Token

STOPS = frozenset(".!?;\n。；！？")
COMMAS = frozenset(",、，()")
COLONS = frozenset(":：")


class Evidence(msgspec.Struct, frozen=True):
    """Something in the prompt that speaks for writing, so strongly."""

    score: float
    reason: str
    literal: str = ""
    """The words that are to be seen, if they are given."""
    certain: bool = False
    """Holds even where writing is refused: the words themselves are given in quotes."""


def before(row: Sequence[Token], place: int, most: int, *, commas: bool = True) -> Iterator[tuple[int, int]]:
    """Distance and index of the tokens to the left in the same sentence, the nearest first; marks do not count.

    Without ``commas`` only as far as the next one.
    """
    distance = 0
    for index in range(place - 1, -1, -1):
        word = row[index].word
        if word in STOPS or distance >= most or (word in COMMAS and not commas):
            return
        if word in COMMAS or word in COLONS:
            continue
        distance += 1
        yield distance, index


def after(row: Sequence[Token], place: int, most: int, *, commas: bool = True) -> Iterator[tuple[int, int]]:
    """The same to the right."""
    distance = 0
    for index in range(place + 1, len(row)):
        word = row[index].word
        if word in STOPS or distance >= most or (word in COMMAS and not commas):
            return
        if word in COMMAS or word in COLONS:
            continue
        distance += 1
        yield distance, index
