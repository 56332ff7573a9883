"""What moderation says of a prompt, a picture that came in, or one that goes out."""

from enum import StrEnum

import msgspec


class Category(StrEnum):
    """What something can be objected to for, in the names of OpenAI's moderation."""

    HARASSMENT = "harassment"
    HARASSMENT_THREATENING = "harassment/threatening"
    HATE = "hate"
    HATE_THREATENING = "hate/threatening"
    ILLICIT = "illicit"
    ILLICIT_VIOLENT = "illicit/violent"
    SELF_HARM = "self-harm"
    SELF_HARM_INTENT = "self-harm/intent"
    SELF_HARM_INSTRUCTIONS = "self-harm/instructions"
    SEXUAL = "sexual"
    SEXUAL_MINORS = "sexual/minors"
    VIOLENCE = "violence"
    VIOLENCE_GRAPHIC = "violence/graphic"


OWN = "policy"
"""The category of a tenant's own words."""


class Stage(StrEnum):
    """What was looked at."""

    PROMPT = "prompt"
    INPUT = "input"
    """A picture that came with the request."""
    OUTPUT = "output"
    """A finished picture."""


class Action(StrEnum):
    """What is done about it."""

    ALLOW = "allow"
    FLAG = "flag"
    """Done as asked; the job and the audit tell of it."""
    BLUR = "blur"
    """The picture is delivered blurred beyond recognition."""
    BLOCK = "block"
    SKIPPED = "skipped"
    """It could not be looked at, and the policy lets it pass (``fail: open``)."""


class Verdict(msgspec.Struct, frozen=True):
    """One decision."""

    stage: Stage
    action: Action
    by: str
    """``lists``, or the name of a classifier."""
    categories: tuple[str, ...] = ()
    """Of `Category`, or `OWN`."""
    scores: dict[str, float] = {}
    """0 to 1, for each category that was found; lists know no probabilities, and say 1."""
    image: int | None = None
    """OUTPUT: which of the pictures, in the order of the seeds."""
    param: str | None = None
    """The field it is about, such as ``references[0].images[1]``."""
