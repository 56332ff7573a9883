"""From the books to the lines of a report: pure."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime

import msgspec
from msgspec.structs import replace

from pipelines.contract.errors import InvalidRequest
from server.api.native.usage_bodies import BudgetLine, Group, RoadLine, UsageLine
from server.domain.spending import APART, SECONDS_PER_DAY, Balance, Limit, Purse, UsageRow, day_of, total

_EPOCH = date(1970, 1, 1)
_LAST = (date.max - _EPOCH).days


def day(text: str | None, usual: int, param: str) -> int:
    """The day that ``text`` says, as an ISO date or a Unix time; ``usual`` if it says nothing."""
    if text is None:
        return usual
    try:
        found = (date.fromisoformat(text) - _EPOCH).days
    except ValueError:
        try:
            found = day_of(float(text))
        except (ValueError, OverflowError):
            found = -1
    if not 0 <= found < _LAST:
        msg = f"{param!r} must be a date such as 2026-11-22, or a Unix time."
        raise InvalidRequest(msg, param=param)
    return found


def first_of_month(now: float) -> int:
    """The first day of the month of Unix time ``now``."""
    today = datetime.fromtimestamp(now, tz=UTC).date()
    return (today.replace(day=1) - _EPOCH).days


def iso(number: int) -> str:
    """The day as a date."""
    return datetime.fromtimestamp(number * SECONDS_PER_DAY, tz=UTC).date().isoformat()


def apart(first: int, after: int, group: Group) -> Collection[str]:
    """What the rows from day ``first`` to before ``after`` have to be told apart by, so that `lines` can add them up."""
    one = group is Group.MODEL or (group is Group.MONTH and iso(first)[:7] == iso(max(first, after - 1))[:7])
    return [name for name in APART if name != "day" or not one]


def lines(rows: Iterable[UsageRow], group: Group) -> list[UsageLine]:
    """``rows`` added up by ``group``, the latest first."""
    wanted = list(rows)
    periods: dict[int, str | None] = {}
    for row in wanted:
        whole = iso(row.day)
        periods[row.day] = {Group.DAY: whole, Group.MONTH: whole[:7], Group.MODEL: None}[group]
    # A period is told by its first day, so that what is of the same one adds up.
    first: dict[str | None, int] = {}
    for number in sorted(periods):
        first.setdefault(periods[number], number)
    summed = total(replace(row, day=first[periods[row.day]]) for row in wanted)
    ordered = sorted(summed, key=lambda row: (-row.day, row.tenant, row.road, row.model))
    return [_line(row, periods[row.day]) for row in ordered]


def compared(rows: Iterable[UsageRow]) -> list[RoadLine]:
    """Each road by itself, the cheapest picture first."""
    summed = total(replace(row, day=0, tenant="", model="") for row in rows)
    found = [
        RoadLine(
            row.road,
            row.images,
            _money(row.usd),
            _each(row.usd, row.images),
            round(row.images / row.usd, 2) if row.usd > 0 else None,
            _each(row.seconds, row.images),
            _each(row.gpu_seconds, row.images),
        )
        for row in summed
    ]
    return sorted(found, key=lambda line: (line.usd_per_image is None, line.usd_per_image or 0.0, line.road))


def budgets(limits: Iterable[Limit], balances: Mapping[Purse, Balance], month: str) -> list[BudgetLine]:
    """How each of ``limits`` stands."""
    found = []
    for limit in limits:
        purse = limit.purse
        balance = balances.get(purse, Balance(purse))
        left = max(0.0, limit.usd - balance.spent - balance.held)
        found.append(
            BudgetLine(
                purse.tenant or None,
                purse.upstream or None,
                month,
                limit.usd,
                _money(balance.spent),
                _money(balance.held),
                _money(left),
            )
        )
    return found


def as_csv(found: Iterable[UsageLine]) -> str:
    """The lines as a table with a head."""
    target = io.StringIO()
    names = UsageLine.__struct_fields__
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(names)
    for line in found:
        values = msgspec.structs.asdict(line)
        writer.writerow([_cell(values[name]) for name in names])
    return target.getvalue()


def _cell(value: object) -> object:
    # A spreadsheet would take it for a formula.
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


def _line(row: UsageRow, period: str | None) -> UsageLine:
    return UsageLine(
        period=period,
        tenant=row.tenant,
        road=row.road,
        model=row.model,
        requests=row.requests,
        images=row.images,
        usd=_money(row.usd),
        unconfirmed_usd=_money(row.unconfirmed_usd),
        gpu_seconds=round(row.gpu_seconds, 4),
        usd_per_image=_each(row.usd, row.images),
        seconds_per_image=_each(row.seconds, row.images),
        input_text_tokens=row.input_text_tokens,
        input_image_tokens=row.input_image_tokens,
        output_tokens=row.output_tokens,
    )


def _money(usd: float) -> float:
    return round(usd, 9)


def _each(whole: float, images: int) -> float | None:
    return round(whole / images, 9) if images else None
