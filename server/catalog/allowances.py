"""What a tenant may spend and how much it may ask for: two sections of its policy."""

from typing import Annotated

import msgspec
from msgspec import Meta

Dollars = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Address = Annotated[str, Meta(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=2048)]


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``budget:``, what upstreams may cost in a calendar month (UTC). Our own workers are counted, but never closed by it."""

    monthly_usd: Dollars | None = None
    """All upstreams together; None for no limit."""
    per_upstream: dict[str, Dollars] = {}
    webhook: Address | None = None
    """Told when 80 % and 100 % of one of these are spent."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``limits:``, how much may be asked for; None for no limit."""

    requests_per_minute: Count | None = None
    """Of those that make pictures."""
    images_per_day: Count | None = None
    """Images accepted in a day (UTC)."""
    concurrent_images: Count | None = None
    """Images at work at the same time, on each server."""
