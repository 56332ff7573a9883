"""Errors of the one tree (`pipelines.contract.errors`) that come from outside of the engine.

AquatintError
├── InvalidRequest
│   └── ModerationBlocked      a policy, ours or an upstream's, does not allow it
├── BudgetSpent                the money for that road is used up
├── RateLimited                the caller asks for more than it may; later it may again
│   └── QuotaSpent             not before tomorrow
└── UpstreamFailure            somebody else's to mend
    ├── UpstreamUnavailable    it can be tried again: connection, overload, its own mistake, an open circuit
    ├── UpstreamAmbiguous      no answer in time, after the request was sent: it may have been done, and charged
    └── UpstreamMisconfigured  the operator's to mend: key, permission, billing, a model that is gone
"""

from pipelines.contract.errors import AquatintError, InvalidRequest


class ModerationBlocked(InvalidRequest):
    """A policy does not allow the prompt, an input or the result; the message says which, never more than the caller may know."""

    code = "moderation_blocked"


class BudgetSpent(AquatintError):
    """The budget of a road, or of a tenant on it, is used up for this month."""

    code = "budget_spent"


class RateLimited(AquatintError):
    """The caller asks more often, or for more at the same time, than it may; ``retry_after`` says when it may again."""

    code = "rate_limit_exceeded"
    retryable = True


class QuotaSpent(RateLimited):
    """What the caller may have in a day is used up."""

    code = "quota_spent"
    retryable = False


class UpstreamFailure(AquatintError):
    """An upstream did not do what it was asked for."""

    code = "upstream_failure"


class UpstreamUnavailable(UpstreamFailure):
    """It could not be reached, was overloaded, or made a mistake; ``retry_after`` says when to try again, if it said so."""

    code = "upstream_unavailable"
    retryable = True


class UpstreamAmbiguous(UpstreamFailure):
    """The request was sent and no answer came: repeating it may be charged twice."""

    code = "upstream_ambiguous"


class UpstreamMisconfigured(UpstreamFailure):
    """The upstream refuses this server: key, permission, billing, or a model that does not exist there any more."""

    code = "upstream_misconfigured"
