"""Every test of the database runs on SQLite and on a real PostgreSQL."""

import pytest
from sqlalchemy import make_url

from server.db.database import Database, beside
from server.db.migrating import migrate


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    """Of an empty database."""
    if request.param == "sqlite":
        return beside(tmp_path)
    return make_url(request.getfixturevalue("postgres_url")).set(drivername="postgresql+asyncpg")


@pytest.fixture
async def database(address):
    database = Database(address)
    await migrate(database)
    yield database
    await database.close()
