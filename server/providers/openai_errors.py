"""OpenAI's refusals as errors of ours: pure, but for reading the clock's time handed in."""

import re
from collections.abc import Mapping
from http import HTTPStatus

from pipelines.contract.errors import AquatintError, InvalidRequest, TooLarge
from server.domain.failures import (
    ModerationBlocked,
    UpstreamBusy,
    UpstreamFailure,
    UpstreamMisconfigured,
    UpstreamModelGone,
    UpstreamUnavailable,
)
from server.providers.rate_limits import retry_after

_MODERATION = ("moderation_blocked", "content_policy_violation", "content_filter", "responsible_ai_policy")
_MONEY = ("billing_hard_limit_reached", "insufficient_quota", "billing_not_active")
_MODEL = ("model_not_found", "model_deprecated", "deprecated", "model_retired", "deployment_not_found")
_KEY = re.compile(r"\b(sk|r8)[-_][\w-]{4,}|\*{4,}\w*")
_LONGEST = 500


def translated(status: int, body: object, headers: Mapping[str, str], now: float, road: str) -> AquatintError:
    """The error for an answer of ``status`` with ``body``, which is the parsed ``error`` object or anything else."""
    told = body if isinstance(body, dict) else {}
    told = told["error"] if isinstance(told.get("error"), dict) else told
    code, kind = str(told.get("code") or ""), str(told.get("type") or "")
    message = said(told.get("message")) or f"HTTP {status}"
    param = told.get("param") if isinstance(told.get("param"), str) else None
    after = retry_after(headers, now)
    if code in _MODERATION or kind in _MODERATION:
        return ModerationBlocked(message)
    if code in _MONEY or kind in _MONEY:
        return UpstreamMisconfigured(f"The upstream {road!r} does not serve us any more for want of money: {message}")
    if code in _MODEL or kind in _MODEL or (status == HTTPStatus.NOT_FOUND and param in (None, "model")):
        return UpstreamModelGone(f"The upstream {road!r} has no such model: {message}")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return UpstreamMisconfigured(f"The upstream {road!r} refuses our key: {message}")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return UpstreamBusy(f"The upstream {road!r} takes no more requests at the moment: {message}", retry_after=after)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLarge(f"The upstream {road!r} takes no request that large: {message}", param=param)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT):
        kind_of = UpstreamFailure if headers.get("x-should-retry") == "false" else UpstreamUnavailable
        return kind_of(f"The upstream {road!r} failed: {message}", retry_after=after)
    return InvalidRequest(f"The upstream {road!r} refused the request: {message}", param=param)


def said(message: object) -> str:
    """An upstream's words, fit to be shown to whoever asked us: bounded, without any part of our key."""
    return _KEY.sub("(key)", str(message or ""))[:_LONGEST]
