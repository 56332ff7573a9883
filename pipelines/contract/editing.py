r"""Text that changes over the steps, as A1111 writes it.

``[from:to:when]`` is ``from`` up to step ``when`` and ``to`` afterwards; ``[to:when]`` begins with nothing, ``[from::when]`` ends
with nothing. ``when`` is a step, or, below 1 or written with a point, a fraction of the steps. ``[a|b|c]`` takes turns, a step
each. They nest in each other and in weights. A backslash keeps the next character from meaning anything here; it is left in the
text, for whoever reads the weights. Brackets that do not pair up are text, and so are those open around them.

Here, and not beside the rest of a prompt's syntax, because the server must know every text that a picture is made of.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

_TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)


@dataclass(slots=True, frozen=True, eq=False)
class _Edit:
    before: "_Text"
    after: "_Text"
    when: str

    def last(self, steps: int) -> int:
        """The last step with `before`, counted from 1."""
        value = float(self.when)
        if "." in self.when or value < 1:
            value *= steps
        return int(min(value, steps))


@dataclass(slots=True, frozen=True, eq=False)
class _Turns:
    options: list["_Text"]


_Item: TypeAlias = "str | _Edit | _Turns | list[_Item]"
_Text: TypeAlias = list[_Item]


class Plan:
    """A text that may change with the step. Reading and rendering are linear in its length, however deep it nests."""

    __slots__ = ("_root",)

    def __init__(self, text: str) -> None:
        """Read ``text``; anything is a plan."""
        self._root = _read(text)

    def turns(self, steps: int) -> list[int]:
        """The steps, from 1, at which the text may change; the first is 1."""
        found = {1}
        waiting = [self._root]
        while waiting:
            for item in waiting.pop():
                if isinstance(item, list):
                    waiting.append(item)
                elif isinstance(item, _Edit):
                    found.add(item.last(steps) + 1)
                    waiting += (item.before, item.after)
                elif isinstance(item, _Turns):
                    found.update(range(1, steps + 1))
                    waiting += item.options
        return sorted(step for step in found if 1 <= step <= steps)

    def text(self, step: int, steps: int) -> str:
        """The text at ``step`` of ``steps``, counted from 1."""
        said: list[str] = []
        inside: list[Iterator[_Item]] = [iter(self._root)]
        while inside:
            for item in inside[-1]:
                if isinstance(item, str):
                    said.append(item)
                    continue
                if isinstance(item, _Edit):
                    item = item.before if step <= item.last(steps) else item.after  # noqa: PLW2901
                elif isinstance(item, _Turns):
                    item = item.options[(step - 1) % len(item.options)]  # noqa: PLW2901
                inside.append(iter(item))
                break
            else:
                inside.pop()
        return "".join(said)


def _read(text: str) -> _Text:
    root: _Text = []
    open_: list[tuple[str, _Text]] = []
    for said in _TOKEN.findall(text):
        here = open_[-1][1] if open_ else root
        if said in ("(", "["):
            open_.append((said, []))
        elif said not in (")", "]"):
            here.append(said)
        elif open_ and open_[-1][0] + said in ("()", "[]"):
            _, items = open_.pop()
            around = open_[-1][1] if open_ else root
            around.append(["(", items, ")"] if said == ")" else _closed(items))
        else:
            _give_up(root, open_)
            root.append(said)
    _give_up(root, open_)
    return root


def _give_up(root: _Text, open_: list[tuple[str, _Text]]) -> None:
    """These brackets will not be closed: they are text, in the order in which they came."""
    for bracket, items in open_:
        root.append(bracket)
        root.append(items)
    open_.clear()


def _closed(items: _Text) -> _Item:
    """What a pair of square brackets around ``items`` means."""
    colons = [index for index, item in enumerate(items) if item == ":"]
    if 1 <= len(colons) <= 2:  # noqa: PLR2004 - to:when or from:to:when
        when = items[colons[-1] + 1 :]
        if len(when) == 1 and isinstance(when[0], str) and _NUMBER.fullmatch(when[0]):
            before = items[: colons[0]] if len(colons) == 2 else []  # noqa: PLR2004
            after = items[colons[0] + 1 : colons[1]] if len(colons) == 2 else items[: colons[0]]  # noqa: PLR2004
            return _Edit(before, after, when[0])
    if "|" not in items:
        return ["[", items, "]"]
    options: list[_Text] = [[]]
    for item in items:
        if item == "|":
            options.append([])
        else:
            options[-1].append(item)
    return _Turns(options)
