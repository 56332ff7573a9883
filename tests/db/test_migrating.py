"""Migrations: the tables they make are those of the code, at once or by several servers together."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from server.db.database import Database
from server.db.migrating import NewerDatabase, migrate
from server.db.tables import METADATA


async def test_migrations_make_the_tables_of_the_code(database):
    async with database.writing() as connection:
        differences = await connection.run_sync(lambda c: compare_metadata(MigrationContext.configure(c), METADATA))
    assert differences == []


async def test_servers_that_start_together_migrate_once(address):
    servers = [Database(address) for _ in range(8)]
    try:
        told = await asyncio.gather(*(migrate(server) for server in servers))
    finally:
        for server in servers:
            await server.close()
    assert sorted(before is None for before, _ in told) == [False] * 7 + [True]
    assert len({after for _, after in told}) == 1


async def test_a_database_of_a_later_version_is_left_alone(database):
    async with database.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NewerDatabase, match="9999"):
        await migrate(database)
