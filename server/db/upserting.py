"""INSERT ... ON CONFLICT, which SQLite and PostgreSQL write alike and SQLAlchemy keeps in two places."""

from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

from server.db.database import Database


def upsert(database: Database, table: Table) -> Any:
    """An INSERT into ``table`` that knows ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    return postgresql.insert(table) if database.postgres else sqlite.insert(table)


def adding(table: Table, statement: Any, *columns: str) -> dict[str, Any]:
    """For ``set_``: each of ``columns`` becomes what it was and what was to be inserted."""
    return {name: table.c[name] + statement.excluded[name] for name in columns}
