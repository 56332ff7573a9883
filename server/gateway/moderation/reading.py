"""What the engine will read of a prompt: every text that it becomes, without the marks of its syntax. Pure."""

import re
from collections.abc import Iterable

from pipelines.contract.editing import Plan
from pipelines.contract.errors import TooLarge
from pipelines.contract.request import ImageRequest

MOST_CHARACTERS = 400_000
"""Of all texts that a prompt becomes: it takes a long prompt that changes at every step to come near."""

_MARK = re.compile(r"\\([()\[\]\\])|:\s*[+-]?[.\d]+\s*(?=\))|[()\[\]]")
_BREAK = re.compile(r"\bBREAK\b")
_BELOW_ZERO = re.compile(r":\s*-[.\d]+\s*\)")


def texts(request: ImageRequest) -> tuple[str, ...]:
    """Each once: the prompt with the words of its style, at every step of every pass.

    LoRA tags are gone from it by now: they name files of the operator's choice, and are not read. The negative prompt says what
    shall not be there, and is left out, unless a weight below zero turns something in it around. Raises `TooLarge`.
    """
    passes = {request.sampling.steps}
    if request.hires is not None and request.hires.steps is not None:
        passes.add(request.hires.steps)
    found = dict.fromkeys(_variants(request.styled_prompt, passes, "prompt"))
    if request.sampling.guided and _BELOW_ZERO.search(request.styled_negative):
        found |= dict.fromkeys(_variants(request.styled_negative, passes, "negative_prompt"))
    return tuple(found)


def bare(text: str) -> str:
    """``text`` without weights, their brackets and chunk ends: ``(nu)(de:1.2)`` is what its letters say."""
    return _BREAK.sub(" ", _MARK.sub(lambda mark: mark[1] or "", text))


def _variants(prompt: str, passes: Iterable[int], param: str) -> Iterable[str]:
    plan = Plan(prompt)
    characters = 0
    said: str | None = None
    for steps in sorted(passes):
        for step in plan.turns(max(steps, 1)):
            text = plan.text(step, max(steps, 1))
            if text == said:
                continue
            said = text
            characters += len(text)
            if characters > MOST_CHARACTERS:
                msg = f"{param!r} becomes texts of more than {MOST_CHARACTERS} characters together; let it change less often."
                raise TooLarge(msg, param=param)
            yield bare(text)
