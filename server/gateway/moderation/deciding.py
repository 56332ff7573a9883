"""From what was found to what is done, by a tenant's policy. Pure."""

from collections.abc import Iterable

import msgspec

from server.catalog.moderation import ModerationPolicy
from server.domain.verdict import Action, Stage, Verdict
from server.gateway.moderation.classifier import Scores
from server.gateway.moderation.lists import Hit

LISTS = "lists"

_SEVERITY = (Action.ALLOW, Action.FLAG, Action.BLUR, Action.BLOCK)


class Finding(msgspec.Struct, frozen=True):
    """What somebody says of one thing."""

    stage: Stage
    by: str
    scores: Scores
    reasons: tuple[str, ...] = ()
    """For the operator."""
    image: int | None = None
    param: str | None = None


def of_hits(hits: Iterable[Hit]) -> Finding:
    """What lists say of a prompt: which terms stood where."""
    hits = tuple(hits)
    reasons = tuple(f"{hit.category}: {hit.term} at {hit.start}-{hit.end}" for hit in hits)
    return Finding(Stage.PROMPT, LISTS, dict.fromkeys((hit.category for hit in hits), 1.0), reasons, param="prompt")


def decide(policy: ModerationPolicy, finding: Finding) -> Verdict:
    """The verdict on ``finding``; its categories are those that ask for what is done, or for less."""
    actions = {category: policy.action(finding.stage, category) for category in sorted(finding.scores)}
    counted = {category: action for category, action in actions.items() if action is not Action.ALLOW}
    return Verdict(
        stage=finding.stage,
        action=max(counted.values(), key=_SEVERITY.index, default=Action.ALLOW),
        by=finding.by,
        categories=tuple(counted),
        scores={category: finding.scores[category] for category in counted},
        image=finding.image,
        param=finding.param,
    )
