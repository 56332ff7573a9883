"""``aquatint db``: the tables of the database."""

from typing import Any

import click

from server.cli.opened import in_database
from server.cli.options import database_options


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@database_options
def upgrade(**flags: Any) -> None:
    """Bring the tables to this version. A server does so at its start too; servers that run meanwhile are not disturbed."""

    async def revisions(_database: object, found: tuple[str | None, str | None]) -> tuple[str | None, str | None]:
        return found

    before, after = in_database(flags, revisions)
    click.echo(f"database at {after}" + ("" if before == after else f", was {before or 'empty'}"))
