"""The database of a command: opened, brought to this version's tables, closed; what is wrong ends the command in one line."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from server.cli.options import settings_from

if TYPE_CHECKING:
    from server.db.database import Database

T = TypeVar("T")


def in_database(flags: dict[str, Any], work: "Callable[[Database, tuple[str | None, str | None]], Awaitable[T]]") -> T:
    """What ``work`` makes of the database that ``flags`` name; it is told the revisions before and after, too."""
    settings = settings_from(flags)
    # Late, so that --help answers at once.
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from server.db.database import Database, beside  # noqa: PLC0415
    from server.db.migrating import NewerDatabase, migrate  # noqa: PLC0415
    from server.domain.failures import StorageFailure  # noqa: PLC0415

    async def inside() -> T:
        database = Database(settings.database_url or beside(settings.home))
        try:
            return await work(database, await migrate(database))
        finally:
            await database.close()

    try:
        return asyncio.run(inside())
    except (SQLAlchemyError, NewerDatabase, StorageFailure, OSError) as error:
        msg = f"the database cannot be used: {error}"
        raise click.ClickException(msg) from None
