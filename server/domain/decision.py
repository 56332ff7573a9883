"""The audit of moderation: what was decided about whose request, and why."""

import msgspec

from server.domain.verdict import Action, Stage


class Decision(msgspec.Struct, frozen=True):
    """One decision that was not simply to let something pass."""

    id: str
    time: float
    """Unix time."""
    tenant: str
    job: str
    stage: Stage
    by: str
    """``lists``, or the name of a classifier."""
    action: Action
    categories: tuple[str, ...]
    scores: dict[str, float]
    reasons: tuple[str, ...]
    """For the operator: which terms of a list stood where in the prompt, or why nobody could look."""
    digest: str
    """Hexadecimal SHA-256 of the prompt with its style: equal prompts are known again without being kept."""
    image: int | None = None
    prompt: str | None = None
    """Only where the operator has prompts kept."""


class DecisionFilter(msgspec.Struct, frozen=True):
    """Which decisions; None leaves them all."""

    tenant: str | None = None
    action: Action | None = None
    stage: Stage | None = None
    job: str | None = None


class DecisionPage(msgspec.Struct, frozen=True):
    """Some decisions, the newest first."""

    decisions: tuple[Decision, ...]
    more: bool
    """Whether there are older ones."""


class Passed(msgspec.Struct, frozen=True):
    """How often something was simply let pass."""

    day: str
    """Such as ``2026-01-31`` (UTC)."""
    stage: Stage
    count: int
