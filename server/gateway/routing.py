"""Which road a request takes, and which ones after it: pure, so that the answer can say why."""

from collections.abc import Sequence

import msgspec

from pipelines.contract.errors import (
    AquatintError,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    RequestKillsWorker,
    ShuttingDown,
)
from server.catalog.routing import Chain, RoutePolicy, Routing
from server.domain.call import Call
from server.domain.failures import ModerationBlocked, UpstreamAmbiguous
from server.domain.generation import AUTO, LOCAL
from server.gateway.text_intent import TextNeed

DRAFT = "low"
"""The quality of a draft."""
_FINAL = (Cancelled, DeadlineExceeded, ShuttingDown)
"""No other road would help."""


class Facts(msgspec.Struct, frozen=True):
    """What must be known of a road to choose it."""

    road: str
    model: str = ""
    """Of our own workers: another model than the request's."""
    lacking: tuple[str, ...] = ()
    wait_seconds: float = 0.0
    barred: bool = False
    """The caller's key may not use it."""

    @property
    def able(self) -> bool:
        """Whether it may be taken, and can do all of the request."""
        return not self.lacking and not self.barred

    @property
    def label(self) -> str:
        """As models.yaml writes it."""
        return f"{self.road}:{self.model}" if self.model else self.road


class Plan(msgspec.Struct, frozen=True):
    """Roads in the order in which they are to be tried."""

    steps: tuple[Facts, ...]
    reasons: tuple[str, ...]
    """Why the first one is the first; short phrases for people."""
    verify: bool = False
    """Read what the first road makes; if the words are not there, it has not succeeded."""


class Question(msgspec.Struct, frozen=True):
    """Everything that decides."""

    call: Call
    need: TextNeed
    rules: Routing
    local: Facts
    others: tuple[Facts, ...] = ()
    """Upstreams, the preferred ones first; and other models of ours that a chain names."""
    chain: Chain | None = None
    """What comes after the first road; None if nobody has said."""
    reader: bool = False
    """Whether results can be read (OCR)."""


class _Choice(msgspec.Struct, frozen=True):
    first: Facts
    reasons: tuple[str, ...]
    verify: bool = False
    stay: bool = False
    """Whatever fails, nothing leaves the house."""
    busy: bool = False
    """It would be our own workers, if they had less to do."""


def decide(asked: Question) -> Plan:
    """The plan; raises `InvalidRequest` where the tenant's policy does not allow the road that was asked for by name."""
    local_only = asked.rules.policy is RoutePolicy.LOCAL_ONLY
    road = asked.call.road
    if road == AUTO:
        choice = _chosen(asked)
    elif road == LOCAL:
        choice = _overflowing(asked, _Choice(asked.local, ("the model runs here",), stay=local_only))
    elif local_only:
        msg = f"The policy for this key allows our own models only, not {road!r}."
        raise InvalidRequest(msg, param="model")
    else:
        named = next((each for each in asked.others if each.road == road), Facts(road))
        choice = _Choice(named, ("asked for by name",))
    rest, skipped = _rest(asked, choice)
    return Plan((choice.first, *rest), (*choice.reasons, *skipped), choice.verify)


def may_follow(error: AquatintError, step: Facts, rules: Routing) -> bool:
    """Whether ``step`` may be tried after ``error`` on another road."""
    if isinstance(error, ModerationBlocked):
        return rules.moderation_fallback
    if isinstance(error, (InvalidRequest, *_FINAL)):
        return False
    if isinstance(error, UpstreamAmbiguous):
        return rules.ambiguous_fallback == "any" or (rules.ambiguous_fallback == "local" and step.road == LOCAL)
    # What killed our workers twice must not kill a third.
    return not (isinstance(error, RequestKillsWorker) and step.road == LOCAL)


def _upstreams(asked: Question) -> tuple[Facts, ...]:
    return tuple(each for each in asked.others if each.road != LOCAL)


def _chosen(asked: Question) -> _Choice:  # noqa: C901, PLR0911 - one for each rule
    rules, need, local = asked.rules, asked.need, asked.local
    upstreams = _upstreams(asked)
    able = [each for each in upstreams if each.able]
    text = f"{'needs' if need.needs_text else 'needs no'} legible text ({need.score:.2f}: {'; '.join(need.reasons[:2])})"
    if not upstreams:
        return _Choice(local, ("no upstream is configured: everything is local", text))
    if rules.policy is RoutePolicy.LOCAL_ONLY:
        return _Choice(local, ("the policy is local_only", text), stay=True)
    if rules.drafts_local and asked.call.wishes.quality.lower() == DRAFT:
        return _Choice(local, ("a draft (quality: low) stays local",), stay=True)
    if all(each.barred for each in upstreams):
        return _Choice(local, ("this key may use no upstream: everything is local", text))
    if not able:
        return _Choice(local, ("only our own workers can do all of it", text))
    policy = f"the policy is {rules.policy.value}"
    if rules.policy is RoutePolicy.PREFER_UPSTREAM:
        return _Choice(able[0], (policy, text))
    if rules.policy is RoutePolicy.PREFER_LOCAL or not need.needs_text:
        return _overflowing(asked, _Choice(local, (policy, text)))
    if rules.policy is not RoutePolicy.VERIFY:
        return _Choice(able[0], (policy, text))
    if not need.literals:
        return _Choice(able[0], (policy, text, "no words are given that could be looked for"))
    if not asked.reader:
        return _Choice(able[0], (policy, text, "results cannot be read here: OCR is not installed, so auto holds"))
    return _overflowing(asked, _Choice(local, (policy, text, "drawn here and read before anybody is paid"), verify=True))


def _overflowing(asked: Question, choice: _Choice) -> _Choice:
    """Upstream instead, if the local queue is too long for the tenant and something else may be done about it."""
    limit = asked.rules.overflow_seconds
    if limit is None or choice.stay or choice.first.wait_seconds <= limit:
        return choice
    allowed = asked.chain or () if asked.call.road == LOCAL else [each.label for each in _upstreams(asked)]
    found = next((each for each in _upstreams(asked) if each.label in allowed and each.able), None)
    if found is None:
        return choice
    reason = f"the local queue of {choice.first.wait_seconds:.0f} s is longer than {limit:.0f} s"
    return _Choice(found, (*choice.reasons, reason), busy=True)


def _rest(asked: Question, choice: _Choice) -> tuple[list[Facts], list[str]]:
    """What comes after the first road, and why what does not."""
    if asked.chain is None:
        named = [asked.local, *_upstreams(asked)] if asked.call.road == AUTO else []
    else:
        known = {each.label: each for each in (asked.local, *asked.others)}
        named = [known[label] for label in asked.chain if label in known]
    if choice.busy and asked.call.road == LOCAL:
        named = [asked.local, *named]  # it was asked for by name
    elif choice.busy and asked.chain is None:
        named = [*_upstreams(asked), asked.local]
    elif choice.busy:
        named = [*named, asked.local]  # where the chain has it, it stays there
    others = [each for each in _once(named) if each.label != choice.first.label]
    rest = [each for each in others if each.able and not (choice.stay and each.road != LOCAL)]
    # An upstream that was passed over is of interest even if no chain names it.
    passed = [each for each in _once([*others, *asked.others]) if not each.able and each.label != choice.first.label]
    return rest, [_why_not(each) for each in passed]


def _why_not(road: Facts) -> str:
    return f"{road.label} is not for this key" if road.barred else f"{road.label} cannot: {', '.join(road.lacking)}"


def _once(roads: Sequence[Facts]) -> list[Facts]:
    return list({each.label: each for each in roads}.values())
