"""Who comes next, and who may be asked to make room: pure decisions, so that thrash is bounded by rules that can be tested.

A model stays for a while whatever waits: a multiple of what its load took, so that loading can never take more than a fixed share
of the time. After that it goes when nobody wants it, when more work waits for another, or when the other has waited past
patience.
"""

from collections.abc import Iterable

import msgspec


class Turnover(msgspec.Struct, frozen=True):
    """What these decisions may be told."""

    stay_seconds: float = 1.0
    """A model stays on the device at least so long."""
    stay_loads: float = 2.0
    """And at least so many times as long as it took to get there: at 2, loading takes at most a third of the time."""
    patience_seconds: float = 30.0
    """Who has waited so long is next, in order of age, and may displace a model with more work than its own."""


class Wanted(msgspec.Struct, frozen=True):
    """A model that is not on the device and should be."""

    model: str
    work: int
    """Pixel-steps that wait for it."""
    since: float
    """When it was first wanted."""
    ordered: bool = False
    """By command, not only by requests: it goes first and waits for nobody's stay."""


class Tenant(msgspec.Struct, frozen=True):
    """A model on the device."""

    model: str
    work: int
    """Pixel-steps of its own, begun or not."""
    since: float
    """When it got there."""
    arrival_seconds: float
    """What getting there took."""


def line(wanted: Iterable[Wanted], now: float, rule: Turnover) -> list[Wanted]:
    """In which order they are served: commands, then the overdue by age, then by waiting work, the oldest first among equals."""

    def place(each: Wanted) -> tuple[int, float, float, str]:
        if each.ordered:
            return (0, each.since, 0.0, each.model)
        return (1, each.since, 0.0, each.model) if overdue(each, now, rule) else (2, -each.work, each.since, each.model)

    return sorted(wanted, key=place)


def overdue(wanted: Wanted, now: float, rule: Turnover) -> bool:
    """Whether it has waited past all patience."""
    return now - wanted.since >= rule.patience_seconds


def displaceable(tenants: Iterable[Tenant], wanted: Wanted, now: float, rule: Turnover) -> tuple[str, ...]:
    """The models that may be asked to make room for ``wanted``."""
    return tuple(tenant.model for tenant in tenants if wanted.ordered or _may_go(tenant, wanted, now, rule))


def next_change(tenants: Iterable[Tenant], wanted: Iterable[Wanted], now: float, rule: Turnover) -> float | None:
    """Seconds until time alone may change an answer of this module; None if it cannot."""
    moments = [_stays_until(tenant, rule) for tenant in tenants] + [each.since + rule.patience_seconds for each in wanted]
    return min((moment - now for moment in moments if moment > now), default=None)


def _may_go(tenant: Tenant, wanted: Wanted, now: float, rule: Turnover) -> bool:
    if now < _stays_until(tenant, rule):
        return False
    return tenant.work == 0 or wanted.work > tenant.work or overdue(wanted, now, rule)


def _stays_until(tenant: Tenant, rule: Turnover) -> float:
    return tenant.since + max(rule.stay_seconds, rule.stay_loads * tenant.arrival_seconds)
