"""``aquatint moderation``: what was decided, and what the lists say of a text."""

from datetime import UTC, datetime
from typing import Any

import click

from server.cli.opened import in_database
from server.cli.options import catalog_options, database_options, settings_from
from server.domain.verdict import Action, Stage


@click.group()
def moderation() -> None:
    """Look at what moderation decides."""


@moderation.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--action", type=click.Choice([action.value for action in Action if action is not Action.ALLOW]))
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]))
@click.option("--job", help="Only those about this job.")
@click.option("--most", default=50, show_default=True, type=click.IntRange(1, 10_000))
@database_options
def list_decisions(tenant: str | None, action: str | None, stage: str | None, job: str | None, most: int, **flags: Any) -> None:
    """Print the newest decisions: time, tenant, job, stage, by whom, action, categories, reasons, digest of the prompt."""
    from server.db.decisions import SqlDecisions  # noqa: PLC0415
    from server.domain.decision import DecisionFilter  # noqa: PLC0415

    wanted = DecisionFilter(tenant, None if action is None else Action(action), None if stage is None else Stage(stage), job)
    page = in_database(flags, lambda database, _revisions: SqlDecisions(database).page(wanted, None, most))
    for each in page.decisions:
        when = datetime.fromtimestamp(each.time, tz=UTC).isoformat(timespec="seconds")
        facts = (when, each.tenant, each.job, each.stage.value, each.by, each.action.value, ",".join(each.categories) or "-")
        click.echo("\t".join((*facts, "; ".join(each.reasons) or "-", each.digest[:16])))


@moderation.command()
@click.option("--tenant", help="Only this tenant's. [default: all together]")
@click.option("--most", default=50, show_default=True, type=click.IntRange(1, 10_000))
@database_options
def passed(tenant: str | None, most: int, **flags: Any) -> None:
    """Print how often something was simply let pass: day, stage, number; the newest days first."""
    from server.db.decisions import SqlDecisions  # noqa: PLC0415

    for each in in_database(flags, lambda database, _revisions: SqlDecisions(database).passed(tenant, most)):
        click.echo(f"{each.day}\t{each.stage.value}\t{each.count}")


@moderation.command()
@click.argument("text")
@click.option("--tenant", default="default", show_default=True, help="By whose policy.")
@catalog_options
def check(text: str, tenant: str, **flags: Any) -> None:
    """Print what the lists find in TEXT, and what the tenant's policy makes of it. Nothing is sent anywhere."""
    from server.catalog.loading import load  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415
    from server.gateway.moderation.deciding import decide, of_hits  # noqa: PLC0415
    from server.gateway.moderation.lists import Lists  # noqa: PLC0415
    from server.gateway.moderation.reading import bare  # noqa: PLC0415

    try:
        policy = load(settings_from(flags).models).policy(tenant).moderation
    except CatalogError as error:
        raise click.ClickException(str(error)) from None
    plain = bare(text)
    reading = Lists(policy.block, policy.allow).read(plain)
    for hit in reading.hits:
        click.echo(f"{hit.category}\t{hit.term}\t{plain[hit.start : hit.end]}")
    click.echo(decide(policy, of_hits(reading.hits)).action.value)
