"""``aquatint usage``: what was spent in a month."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from server.cli.opened import in_database
from server.cli.options import database_options

if TYPE_CHECKING:
    from server.db.database import Database
    from server.domain.spending import UsageRow

_EPOCH = date(1970, 1, 1)
_LATE = 28
"""Every month has this day, and four days later it is the next."""


def _month(_context: click.Context, _option: click.Parameter, text: str | None) -> date:
    """The first day of ``2026-11``; of this month if nothing is said."""
    if text is None:
        return datetime.now(tz=UTC).date().replace(day=1)
    try:
        if not re.fullmatch(r"\d{4}-\d{2}", text):
            raise ValueError  # noqa: TRY301 - told in the same words
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        msg = f"{text!r} is no month such as 2026-11"
        raise click.BadParameter(msg) from None


@click.command()
@click.option("--month", callback=_month, help="Such as 2026-11, UTC. [default: this month]")
@click.option("--tenant", help="Only this tenant's. [default: all]")
@database_options
def usage(month: date, tenant: str | None, **flags: Any) -> None:
    """Print what was used in a month: tenant, road, model, requests, images, US dollars, dollars per image, GPU seconds."""
    after = (month.replace(day=_LATE) + timedelta(days=4)).replace(day=1)

    async def used(database: "Database", _revisions: object) -> "tuple[UsageRow, ...]":
        from server.db.ledger import SqlLedger  # noqa: PLC0415
        from server.domain.clock import SystemClock  # noqa: PLC0415

        ledger = SqlLedger(database, SystemClock(), lambda _crossing: b"")
        return await ledger.used((month - _EPOCH).days, (after - _EPOCH).days, tenant, apart=("tenant", "road", "model"))

    for row in sorted(in_database(flags, used), key=lambda row: (row.tenant, row.road, row.model)):
        each = f"{row.usd / row.images:.6f}" if row.images else "-"
        figures = (str(row.requests), str(row.images), f"{row.usd:.4f}", each, f"{row.gpu_seconds:.1f}")
        click.echo("\t".join((row.tenant, row.road, row.model, *figures)))
