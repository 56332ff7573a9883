"""``aquatint webhooks``: what was told to whom, and telling it again."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from server.cli.opened import in_database
from server.cli.options import database_options
from server.domain.webhook import DeliveryState

T = TypeVar("T")


@click.group()
def webhooks() -> None:
    """Look at webhooks, and send them again."""


@webhooks.command("list")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only those in this state.")
@click.option("--job", help="Only those about this job.")
@click.option("--most", default=50, show_default=True, type=click.IntRange(1, 10_000))
@database_options
def list_webhooks(state: str | None, job: str | None, most: int, **flags: Any) -> None:
    """Print the newest messages: id, state, attempts, next attempt, job, receiver, what became of the last attempt."""
    wanted = None if state is None else DeliveryState(state)
    for each in _run(flags, lambda deliveries: deliveries.newest(most, state=wanted, job_id=job)):
        due = (
            datetime.fromtimestamp(each.due, tz=UTC).isoformat(timespec="seconds") if each.state is DeliveryState.PENDING else "-"
        )
        click.echo(
            "\t".join((each.id, each.state.value, str(each.attempts), due, each.job_id or "-", each.url, each.outcome or "-"))
        )


@webhooks.command()
@click.argument("message", nargs=-1, required=True)
@database_options
def resend(message: tuple[str, ...], **flags: Any) -> None:
    """Have each MESSAGE (an id that `list` prints) sent once more, from its first attempt on, by a server that runs."""

    async def again(deliveries: Any) -> list[bool]:
        return [await deliveries.again(each) is not None for each in message]

    unknown = [each for each, found in zip(message, _run(flags, again), strict=True) if not found]
    if unknown:
        msg = f"there is no message {', '.join(unknown)}"
        raise click.ClickException(msg)
    click.echo(f"{len(message)} will be sent within half a minute")


def _run(flags: dict[str, Any], work: Callable[[Any], Awaitable[T]]) -> T:
    from server.db.webhooks import SqlDeliveries  # noqa: PLC0415
    from server.domain.clock import SystemClock  # noqa: PLC0415

    return in_database(flags, lambda database, _revisions: work(SqlDeliveries(database, SystemClock())))
