"""``aquatint db``: the tables of the database."""

import asyncio
from typing import Any

import click

from server.cli.options import database_options, settings_from


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@database_options
def upgrade(**flags: Any) -> None:
    """Bring the tables to this version. A server does so at its start too; servers that run meanwhile are not disturbed."""
    settings = settings_from(flags)
    # Late, so that --help answers at once.
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from server.db.database import Database, beside  # noqa: PLC0415
    from server.db.migrating import NewerDatabase, migrate  # noqa: PLC0415

    async def work() -> tuple[str | None, str | None]:
        database = Database(settings.database_url or beside(settings.home))
        try:
            return await migrate(database)
        finally:
            await database.close()

    try:
        before, after = asyncio.run(work())
    except NewerDatabase as error:
        raise click.ClickException(str(error)) from None
    except (SQLAlchemyError, OSError) as error:
        msg = f"the database cannot be used: {error}"
        raise click.ClickException(msg) from None
    click.echo(f"database at {after}" + ("" if before == after else f", was {before or 'empty'}"))
