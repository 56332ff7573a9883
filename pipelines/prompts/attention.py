r"""Weights in a text, as A1111 writes them.

``(word)`` is 1.1 times as strong, ``(word:1.3)`` 1.3 times, ``[word]`` 1.1 times weaker; all nest and multiply. ``\(``, ``\)``,
``\[``, ``\]`` and ``\\`` are the characters themselves. ``BREAK`` ends the chunk. A bracket that is never closed holds to the
end; one that closes nothing is text.
"""

import math
import re

from pipelines.prompts.fragments import MAX_WEIGHT, Break, Fragment, Wording

_STEP = 1.1
_DIGITS = 6
"""Weights are rounded, so that equal products of different factors are equal and their texts are joined."""

# Every alternative looks ahead over a run of one kind of character at most: the whole is linear in the text.
_TOKEN = re.compile(r"\\[()\[\]\\]|\\|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b")


def weighted(text: str) -> Wording:
    """``text`` as fragments; neighbours of equal weight are one. Linear in the length, and takes any text."""
    reading = _Reading()
    for token in _TOKEN.finditer(text):
        reading.take(token[0], None if token[1] is None else _number(token[1]))
    return reading.wording()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "1.2.3"
        return None


class _Reading:
    """Pieces, and the factors that apply from one piece to another."""

    __slots__ = ("_begins", "_ends", "_pieces", "_round", "_square")

    def __init__(self) -> None:
        self._pieces: list[str | Break] = []
        self._round: list[int] = []
        self._square: list[int] = []
        self._begins: dict[int, list[float]] = {}
        self._ends: dict[int, list[float]] = {}

    def take(self, said: str, weight: float | None) -> None:
        """The next token, as ``said``; ``weight`` if it is a colon, a number and a closing bracket."""
        if said[0] == "\\":
            self._pieces.append(said[1:])
        elif said == "(":
            self._round.append(len(self._pieces))
        elif said == "[":
            self._square.append(len(self._pieces))
        elif weight is not None and self._round:
            self._apply(self._round.pop(), weight)
        elif said == ")" and self._round:
            self._apply(self._round.pop(), _STEP)
        elif said == "]" and self._square:
            self._apply(self._square.pop(), 1 / _STEP)
        elif said[-1] == ")" and said != ")" and self._round:
            # A colon and something that only looks like a number: the bracket counts, the rest is text.
            self._pieces.append(said[:-1])
            self._apply(self._round.pop(), _STEP)
        else:
            self._text(said)

    def wording(self) -> Wording:
        """What was read, once everything is."""
        for begin in self._round:
            self._apply(begin, _STEP)
        for begin in self._square:
            self._apply(begin, 1 / _STEP)
        product = _Product()
        parts: list[Fragment | Break] = []
        for index, piece in enumerate(self._pieces):
            for factor in self._ends.get(index, ()):
                product.leave(factor)
            for factor in self._begins.get(index, ()):
                product.enter(factor)
            if isinstance(piece, Break):
                parts.append(piece)
            elif piece:
                parts.append(Fragment(piece, product.value()))
        return _joined(parts)

    def _apply(self, begin: int, factor: float) -> None:
        if begin < len(self._pieces):
            self._begins.setdefault(begin, []).append(factor)
            self._ends.setdefault(len(self._pieces), []).append(factor)

    def _text(self, text: str) -> None:
        first, *others = _BREAK.split(text)
        # The space around the word belongs to it.
        self._pieces.append(first.rstrip() if others else first)
        for index, part in enumerate(others, start=1):
            part = part.lstrip()  # noqa: PLW2901
            self._pieces += [Break(), part.rstrip() if index < len(others) else part]


class _Product:
    """A product that factors enter and leave again, kept as a sum of logarithms beside the count of zeros and signs."""

    __slots__ = ("_logarithm", "_negatives", "_zeros")

    def __init__(self) -> None:
        self._logarithm = 0.0
        self._zeros = self._negatives = 0

    def enter(self, factor: float) -> None:
        self._count(factor, 1)

    def leave(self, factor: float) -> None:
        self._count(factor, -1)

    def value(self) -> float:
        """Within the bounds of a weight."""
        if self._zeros:
            return 0.0
        size = min(math.exp(min(self._logarithm, 100.0)), MAX_WEIGHT)
        return round(-size if self._negatives % 2 else size, _DIGITS)

    def _count(self, factor: float, times: int) -> None:
        if factor == 0.0:
            self._zeros += times
            return
        self._negatives += times if factor < 0 else 0
        # A number of a thousand digits is infinite; ten thousand is as good.
        self._logarithm += times * math.log(min(abs(factor), 1e4))


def _joined(parts: list[Fragment | Break]) -> Wording:
    joined: list[Fragment | Break] = []
    run: list[str] = []
    weight = 1.0

    def flush() -> None:
        if run:
            joined.append(Fragment("".join(run), weight))
            run.clear()

    for part in parts:
        if isinstance(part, Break):
            flush()
            joined.append(part)
            continue
        if part.weight != weight:
            flush()
            weight = part.weight
        run.append(part.text)
    flush()
    return tuple(joined)
