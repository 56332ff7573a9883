"""Money on its way: held before a road is taken, settled after; and what is told when it runs out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from msgspec.structs import replace

from server.domain.generation import Usage

THRESHOLDS = (80, 100)
"""Per cent of a limit at which somebody is told, once each in a month."""
SECONDS_PER_DAY = 86_400


class Purse(msgspec.Struct, frozen=True, order=True):
    """Whose money for what: of one tenant, or of all together; on one upstream, or on all. Empty means all."""

    tenant: str = ""
    upstream: str = ""


class Limit(msgspec.Struct, frozen=True):
    """What may be spent from a purse in a calendar month (UTC)."""

    purse: Purse
    usd: float
    webhook: str | None = None
    """Told of thresholds."""


class Hold(msgspec.Struct, frozen=True):
    """Money set aside for one attempt of one job on the road to one upstream: the most that it is expected to cost."""

    job_id: str
    """The request's id: of several requests that a job is made of, each has its own."""
    attempt: int
    upstream: str
    tenant: str
    model: str
    usd: float
    at: float
    """Unix time. Whatever comes of it belongs to that day and month."""

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from others."""
        return (self.job_id, self.attempt, self.upstream)

    @property
    def purses(self) -> tuple[Purse, ...]:
        """Where it is taken from, in the order in which every server locks them."""
        return (Purse("", self.upstream), Purse(self.tenant, ""), Purse(self.tenant, self.upstream))


class Charge(msgspec.Struct, frozen=True):
    """What an attempt came to."""

    usage: Usage
    images: int
    seconds: float
    """From the road's beginning to its end."""
    model: str = ""
    """What made the images; empty: what was asked."""
    confirmed: bool = True
    """Whether the figure follows from what the upstream told; False: it was estimated."""


def lost(hold: Hold, seconds: float = 0.0) -> Charge:
    """What ``hold`` comes to where nobody knows what came of it: all of it."""
    return Charge(Usage(usd=hold.usd), images=0, seconds=seconds, model=hold.model, confirmed=False)


class Crossing(msgspec.Struct, frozen=True):
    """So much of a limit is used up, for the first time in its month."""

    limit: Limit
    month: str
    spent: float
    percent: int
    """One of `THRESHOLDS`."""


class Balance(msgspec.Struct, frozen=True):
    """How a purse stands in a month."""

    purse: Purse
    spent: float = 0.0
    held: float = 0.0
    """Set aside for what runs now."""


class UsageRow(msgspec.Struct, frozen=True):
    """What one tenant used of one model on one road in one day (UTC)."""

    day: int
    """Days since 1970-01-01."""
    tenant: str
    road: str
    model: str
    requests: int
    images: int
    usd: float
    unconfirmed_usd: float
    """How much of it was never confirmed: no answer came, or the answer did not tell."""
    gpu_seconds: float
    seconds: float
    """Waiting and work, over all requests."""
    input_text_tokens: int = 0
    input_image_tokens: int = 0
    output_tokens: int = 0


def used_row(tenant: str, road: str, charge: Charge, at: float) -> UsageRow:
    """``charge``, which belongs to Unix time ``at``, as a row."""
    usage = charge.usage
    return UsageRow(
        day=day_of(at),
        tenant=tenant,
        road=road,
        model=charge.model,
        requests=1,
        images=charge.images,
        usd=usage.usd,
        unconfirmed_usd=0.0 if charge.confirmed else usage.usd,
        gpu_seconds=usage.gpu_seconds,
        seconds=charge.seconds,
        input_text_tokens=usage.input_text_tokens,
        input_image_tokens=usage.input_image_tokens,
        output_tokens=usage.output_tokens,
    )


APART, ADDED = tuple(UsageRow.__struct_fields__[:4]), tuple(UsageRow.__struct_fields__[4:])
"""What tells one `UsageRow` from another, and its figures."""


def total(rows: Iterable[UsageRow]) -> tuple[UsageRow, ...]:
    """``rows`` with those of the same day, tenant, road and model added up, in the order in which they first come."""
    sums: dict[tuple[int, str, str, str], UsageRow] = {}
    for row in rows:
        key = (row.day, row.tenant, row.road, row.model)
        before = sums.get(key)
        added = row if before is None else replace(row, **{name: getattr(before, name) + getattr(row, name) for name in ADDED})
        sums[key] = added
    return tuple(sums.values())


class Refused(msgspec.Struct, frozen=True):
    """Why money could not be set aside."""

    limit: Limit
    crossing: Crossing | None = None
    """Set if nobody has been told yet."""


class Ledger(Protocol):
    """Keeps the books; every change has happened, for good and for every server, once the call returns."""

    async def reserve(self, hold: Hold, limits: tuple[Limit, ...], *, owner: str, lease: float) -> Refused | None:
        """Set money aside, unless that would go over one of ``limits``; the same hold twice counts once.

        Who has not renewed the lease by Unix time ``lease`` is taken for dead.
        """
        ...

    async def settle(self, hold: Hold, charge: Charge, limits: tuple[Limit, ...]) -> tuple[Crossing, ...]:
        """Spend ``charge`` in the place of ``hold``; nothing happens if that is no longer held: it was settled before."""
        ...

    async def release(self, hold: Hold) -> None:
        """Nothing was spent."""
        ...

    async def keep(
        self, opened: Sequence[Hold], ended: Sequence[tuple[Hold, Charge | None]], *, owner: str, lease: float
    ) -> None:
        """`reserve` each of ``opened``, and `settle` (None: `release`) each of ``ended``, where no limit holds; all or nothing.

        What ends was opened by a call before: so this one may be made again by who does not know whether it has happened.
        """
        ...

    async def book(self, rows: Iterable[UsageRow]) -> None:
        """Add ``rows`` to what was used."""
        ...

    async def renew(self, owner: str, job_ids: Iterable[str], lease: float) -> None:
        """``owner`` lives, and works on those jobs."""
        ...

    async def sweep(self, *, everybody: bool = False) -> tuple[Hold, ...]:
        """Count what dead servers held as spent, as it may have been; what there was. ``everybody``: all others are dead."""
        ...

    async def balances(self, month: str, tenant: str = "") -> Mapping[Purse, Balance]:
        """How the purses of ``tenant`` stand; empty: those of all tenants together."""
        ...

    async def used(
        self, since: int, until: int, tenant: str | None = None, *, apart: Collection[str] = APART
    ) -> tuple[UsageRow, ...]:
        """What was used from day ``since`` to before day ``until``, by one tenant or by all.

        Rows that do not differ in ``apart`` are one: without ``day`` all of them are of the day ``since``; what else they are not
        told apart by is empty. Raises `TooLarge` rather than leave something out.
        """
        ...


class Quotas(Protocol):
    """Counts what was accepted."""

    async def take(self, tenant: str, images: int, most: int, now: float) -> bool:
        """Count ``images`` to the day of ``now``, unless they would be more than ``most`` with those before."""
        ...

    async def taken(self, tenant: str, now: float) -> int:
        """How many are counted to the day of ``now``."""
        ...


def day_of(at: float) -> int:
    """The day (UTC) of Unix time ``at``."""
    return int(at // SECONDS_PER_DAY)


def month_of(at: float) -> str:
    """The month (UTC) of Unix time ``at``, such as ``2026-11``."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m")
