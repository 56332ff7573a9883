"""Errors of the one tree (`pipelines.contract.errors`) that come from outside of the engine.

AquatintError
├── InvalidRequest
│   └── ModerationBlocked      a policy, ours or an upstream's, does not allow it
├── ModerationUnavailable      what the policy asks to be looked at could not be
├── BudgetSpent                the money for that road is used up
├── StorageFailure             results could not be stored, or fetched
│   └── StorageFull            there is no room for them
├── SigningFailed              a picture is there, and cannot be signed as the operator wants it
├── RateLimited                the caller asks for more than it may; later it may again
│   └── QuotaSpent             not before tomorrow
└── UpstreamFailure            somebody else's to mend
    ├── UpstreamUnavailable    it can be tried again: connection, overload, its own mistake, an open circuit
    │   └── UpstreamBusy       it, or our queue before it, takes no more at the moment: it works, and may be asked later
    ├── UpstreamAmbiguous      no answer in time, after the request was sent: it may have been done, and charged
    └── UpstreamMisconfigured  the operator's to mend: key, permission, billing
        └── UpstreamModelGone  it has no such model, or not any more
"""

from pipelines.contract.errors import AquatintError, InvalidRequest
from server.domain.verdict import Verdict


class ModerationBlocked(InvalidRequest):
    """A policy does not allow the prompt, an input or the result; the message says which, never more than the caller may know."""

    code = "moderation_blocked"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        verdicts: tuple[Verdict, ...] = (),
    ) -> None:
        """``verdicts`` are our own; an upstream's refusal has none."""
        super().__init__(message, param=param, retry_after=retry_after)
        self.verdicts = verdicts


class ModerationUnavailable(AquatintError):
    """A classifier is not there, or does not answer, and the policy lets nothing pass that nobody has looked at."""

    code = "moderation_unavailable"
    retryable = True


class BudgetSpent(AquatintError):
    """The budget of a road, or of a tenant on it, is used up for this month."""

    code = "budget_spent"


class StorageFailure(AquatintError):
    """The place of results or the database does not do what it is asked for; the operator's to mend."""

    code = "storage_unavailable"
    retryable = True


class StorageFull(StorageFailure):
    """There is no room left for results, or in the database; nothing of what did not fit is kept."""

    code = "storage_full"


class SigningFailed(AquatintError):
    """The finished picture could not be signed: nothing goes out without its signature once signing is configured."""

    code = "signing_failed"
    retryable = True


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


class UpstreamBusy(UpstreamUnavailable):
    """Its rate limit is reached, or too many requests wait for it here."""

    code = "upstream_busy"


class UpstreamAmbiguous(UpstreamFailure):
    """The request was sent and no answer came: repeating it may be charged twice."""

    code = "upstream_ambiguous"


class UpstreamMisconfigured(UpstreamFailure):
    """The upstream refuses this server: key, permission, billing, or a model that does not exist there any more."""

    code = "upstream_misconfigured"


class UpstreamModelGone(UpstreamMisconfigured):
    """The model that was asked for does not exist there, or not any more."""

    code = "upstream_model_gone"
