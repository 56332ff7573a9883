"""Words that stand for learned vectors (textual inversion), found in a wording."""

import re
from collections.abc import Iterable

from pipelines.prompts.fragments import Break, Fragment, Wording


class LearnedWords:
    """The known names. One counts where it stands as a word of its own, whatever its case; the longest name wins."""

    __slots__ = ("_names", "_pattern")

    def __init__(self, names: Iterable[str]) -> None:
        """``names`` hold no bracket, colon, bar or backslash."""
        self._names = sorted((name.lower() for name in names), key=len, reverse=True)
        # A group for each: what matches without regard to case need not be equal in lower case (a long s, a dotless i).
        either = "|".join(f"({re.escape(name)})" for name in self._names)
        self._pattern = re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE) if self._names else None

    def mark(self, wording: Wording) -> Wording:
        """``wording`` with each name as a fragment of its own, in lower case."""
        if self._pattern is None:
            return wording
        return tuple(part for whole in wording for part in self._split(whole))

    def _split(self, whole: Fragment | Break) -> Iterable[Fragment | Break]:
        if isinstance(whole, Break) or self._pattern is None:
            yield whole
            return
        at = 0
        for name in self._pattern.finditer(whole.text):
            if name.start() > at:
                yield Fragment(whole.text[at : name.start()], whole.weight)
            yield Fragment(self._names[(name.lastindex or 1) - 1], whole.weight, learned=True)
            at = name.end()
        if at < len(whole.text):
            yield Fragment(whole.text[at:], whole.weight)
