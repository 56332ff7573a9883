"""What is said of a budget that runs out: Standard Webhooks' shape."""

import json
from datetime import UTC, datetime

from server.domain.clock import Clock
from server.domain.spending import THRESHOLDS, Crossing


def compose(crossing: Crossing, clock: Clock) -> bytes:
    """``{"type": "budget.warning" or "budget.spent", "timestamp": ISO 8601, "data": {...}}``."""
    purse = crossing.limit.purse
    data = {
        "tenant": purse.tenant,
        "upstream": purse.upstream or None,
        "month": crossing.month,
        "limit_usd": crossing.limit.usd,
        "spent_usd": round(crossing.spent, 6),
        "percent": crossing.percent,
    }
    kind = "budget.spent" if crossing.percent >= THRESHOLDS[-1] else "budget.warning"
    return json.dumps(
        {"type": kind, "timestamp": datetime.fromtimestamp(clock.time(), tz=UTC).isoformat(), "data": data}
    ).encode()
