"""What upstreams say of their rate limits, in headers: pure."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST = 24 * 3600.0


class Allowance(msgspec.Struct, frozen=True):
    """So many more requests are allowed within the next ``seconds``."""

    remaining: int
    seconds: float


def allowance(headers: Mapping[str, str]) -> Allowance | None:
    """From ``x-ratelimit-{remaining,reset}-{requests,tokens}``; None if they say nothing that can be understood.

    Tokens count only when there are none left: what a request takes of them is not known before.
    """
    told = {name.lower(): value for name, value in headers.items()}
    found: list[Allowance] = []
    for unit in ("requests", "tokens", "images"):
        left, reset = told.get(f"x-ratelimit-remaining-{unit}", ""), duration(told.get(f"x-ratelimit-reset-{unit}", ""))
        if not re.fullmatch(r"-?\d{1,12}", left.strip()) or reset is None:
            continue
        if unit == "requests" or int(left) <= 0:
            found.append(Allowance(max(0, int(left)), reset))
    return min(found, key=lambda each: (each.remaining, -each.seconds), default=None)


def duration(text: str) -> float | None:
    """Seconds of ``1s``, ``6m0s``, ``120ms`` or ``1.5``; None for anything else."""
    text = text.strip().lower()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return min(float(text), _MOST)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return min(sum(float(number) * _SECONDS[unit] for number, unit in parts), _MOST)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds, from ``retry-after-ms`` or ``retry-after`` in either of its forms; ``now`` is Unix time."""
    told = {name.lower(): value.strip() for name, value in headers.items()}
    number = re.compile(r"\d{1,9}(\.\d+)?")
    if number.fullmatch(told.get("retry-after-ms", "")):
        return min(float(told["retry-after-ms"]) / 1000, _MOST)
    text = told.get("retry-after", "")
    if number.fullmatch(text):
        return min(float(text), _MOST)
    try:
        return min(max(parsedate_to_datetime(text).timestamp() - now, 0.0), _MOST)
    except (TypeError, ValueError):
        return None
