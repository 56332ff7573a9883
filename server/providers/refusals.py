"""An HTTP status of an upstream as an error of ours, where its body says nothing more exact: pure."""

from collections.abc import Mapping
from http import HTTPStatus

from pipelines.contract.errors import AquatintError, InvalidRequest, TooLarge
from server.domain.failures import (
    UpstreamAmbiguous,
    UpstreamBusy,
    UpstreamFailure,
    UpstreamMisconfigured,
    UpstreamModelGone,
    UpstreamUnavailable,
)
from server.providers.rate_limits import retry_after

_KINDS: Mapping[int, tuple[type[AquatintError], str]] = {
    HTTPStatus.UNAUTHORIZED: (UpstreamMisconfigured, "refuses our key"),
    HTTPStatus.PAYMENT_REQUIRED: (UpstreamMisconfigured, "does not serve us any more for want of money"),
    HTTPStatus.FORBIDDEN: (UpstreamMisconfigured, "refuses our key"),
    HTTPStatus.NOT_FOUND: (UpstreamModelGone, "has no such model"),
    HTTPStatus.REQUEST_TIMEOUT: (UpstreamUnavailable, "failed"),
    HTTPStatus.CONFLICT: (UpstreamUnavailable, "failed"),
    HTTPStatus.GONE: (UpstreamModelGone, "has no such model"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (TooLarge, "takes no request that large"),
    HTTPStatus.TOO_MANY_REQUESTS: (UpstreamBusy, "takes no more requests at the moment"),
}

_NOT_ITS_OWN = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT, 520, 524)
"""A gateway before the upstream has sent it the request, and does not know what became of it (520 and 524: Cloudflare's)."""


def refusal(
    status: int, words: str, headers: Mapping[str, str], now: float, road: str, *, param: str | None = None
) -> AquatintError:
    """What ``status`` means, with the upstream's ``words`` for people; ``now`` is Unix time, for Retry-After."""
    kind, what = _KINDS.get(status, (InvalidRequest, "refused the request"))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = UpstreamFailure if headers.get("x-should-retry") == "false" else UpstreamUnavailable
        what = "failed"
    if status in _NOT_ITS_OWN:
        kind, what = UpstreamAmbiguous, "did not answer its own gateway, and may have been charged"
    msg = f"The upstream {road!r} {what}: {words}"
    return kind(msg, param=param, retry_after=retry_after(headers, now))
