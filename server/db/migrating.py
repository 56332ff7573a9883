"""Bringing a database to the tables of this version, one server at a time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from server.db.database import Database

_LOCK = 0x41515541
"""Any number that is always the same: PostgreSQL's advisory lock while one server migrates."""


async def migrate(database: Database) -> tuple[str | None, str | None]:
    """The revision before and after; servers that start together wait for the first, which does it all in one transaction.

    Raises `NewerDatabase` for a database that a later version has migrated.
    """
    await database.prepare()
    async with database.writing() as connection:
        if database.postgres:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        return await connection.run_sync(_upgrade)


class NewerDatabase(Exception):
    """The database is of a later version of Aquatint."""


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    before = MigrationContext.configure(connection).get_current_revision()
    if before is not None and before not in {script.revision for script in scripts.walk_revisions()}:
        msg = f"The database is at revision {before}, which this version does not know: it belongs to a later one."
        raise NewerDatabase(msg)
    command.upgrade(config, "head")
    return before, MigrationContext.configure(connection).get_current_revision()
