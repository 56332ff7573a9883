"""OpenAI's refusals as errors of ours: pure, but for reading the clock's time handed in."""

import re
from collections.abc import Mapping
from http import HTTPStatus

from pipelines.contract.errors import AquatintError
from server.domain.failures import ModerationBlocked
from server.providers.refusals import refusal

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
    if code in _MODERATION or kind in _MODERATION:
        return ModerationBlocked(message)
    if code in _MONEY or kind in _MONEY:
        status = HTTPStatus.PAYMENT_REQUIRED
    elif code in _MODEL or kind in _MODEL:
        status = HTTPStatus.NOT_FOUND
    return refusal(status, message, headers, now, road, param=param)


def said(message: object) -> str:
    """An upstream's words, fit to be shown to whoever asked us: bounded, without any part of our key."""
    return _KEY.sub("(key)", str(message or ""))[:_LONGEST]
