"""A prompt as written: what is said at each step, and the LoRAs it asks for."""

from collections.abc import Iterator

from pipelines.contract.editing import Plan
from pipelines.contract.loras import LoraReference, extract
from pipelines.prompts.attention import weighted
from pipelines.prompts.fragments import Fragment, Wording


class Script:
    """A prompt that has been read. Any text is a script: what makes no sense is taken literally."""

    __slots__ = ("_literal", "_plan", "loras")

    def __init__(self, text: str, *, literal: bool = False) -> None:
        """Read ``text``; ``literal`` takes round brackets, backslashes and BREAK as text. Changes over steps remain."""
        kept, loras = extract(text)
        self.loras: tuple[LoraReference, ...] = loras
        """In the order of their tags, which are no part of the wordings."""
        self._plan = Plan(kept)
        self._literal = literal

    def cues(self, steps: int) -> Iterator[tuple[int, Wording]]:
        """Each wording with the step, from 0, at which it begins; the first is 0. Made one by one: there may be ``steps``."""
        said: str | None = None
        for step in self._plan.turns(max(steps, 1)):
            text = self._plan.text(step, max(steps, 1))
            if text != said:
                said = text
                yield step - 1, self._wording(text)

    def _wording(self, text: str) -> Wording:
        if self._literal:
            return (Fragment(text),) if text else ()
        return weighted(text)
