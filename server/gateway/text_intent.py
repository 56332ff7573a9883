"""Does a prompt ask for writing in the picture? By rules that can be read, without a model. Pure.

Three kinds of evidence are weighed, the strongest counts: what stands in quotes, and what the words around it do; words that are
given without quotes; things that are made to be read. A refusal ("no text") takes away all but what is quoted.
"""

from collections.abc import Iterator, Sequence

import msgspec

from server.gateway.quotations import quotations
from server.gateway.text_quoted import quoted
from server.gateway.text_refused import Refused, refused, refused_by_negative
from server.gateway.text_signs import Evidence
from server.gateway.text_tokens import tokens
from server.gateway.text_unquoted import unquoted

READ = 4_000
"""Characters of a prompt that are looked at."""
THRESHOLD = 0.5
_REASONS = 4
_REFUSED = 0.2
"""What evidence is still worth once writing is refused."""


class TextNeed(msgspec.Struct, frozen=True):
    """Whether the picture needs legible writing."""

    needs_text: bool
    score: float
    """0..1; `THRESHOLD` and above needs it."""
    reasons: tuple[str, ...] = ()
    """For people, the strongest first."""
    literals: tuple[str, ...] = ()
    """The words that are to be seen, as far as they are given."""


UNASKED = TextNeed(needs_text=False, score=0.0)
"""Of a prompt that nobody has read, as the road was named."""


def text_intent(prompt: str, negative: str = "") -> TextNeed:
    """What ``prompt`` asks for, given what the ``negative`` prompt refuses."""
    found = quotations(prompt[:READ])
    row = tokens(prompt[:READ], found)
    refusals = refused(row)
    evidence = [*quoted(prompt, row), *unquoted(row, refusals)]
    reasons: list[str] = []
    if refusals.writing:
        reasons.append(f"{refusals.by!r} refuses writing")
    elif negative and (word := refused_by_negative(negative[:READ])):
        refusals = Refused(refusals.places, writing=True, by=word)
        reasons.append(f"the negative prompt refuses writing: {word!r}")
    weighed = sorted(_weighed(evidence, refusals), key=lambda each: -each.score)
    score = round(max((each.score for each in weighed), default=0.0), 2)
    needs = score >= THRESHOLD
    told = [each.reason for each in weighed if (each.score >= THRESHOLD) is needs][:_REASONS]
    literals = _literals(evidence) if needs else ()
    return TextNeed(needs, score, tuple(dict.fromkeys([*reasons, *told])) or ("nothing asks for writing",), literals)


def _weighed(evidence: Sequence[Evidence], refusals: Refused) -> Iterator[Evidence]:
    for each in evidence:
        if refusals.writing and not each.certain:
            yield msgspec.structs.replace(each, score=each.score * _REFUSED)
        else:
            yield each


def _literals(evidence: Sequence[Evidence]) -> tuple[str, ...]:
    """Each once; not those that are a part of another."""
    found = tuple(dict.fromkeys(each.literal for each in evidence if each.literal and each.score >= THRESHOLD))
    return tuple(each for each in found if not any(each != other and each in other for other in found))
