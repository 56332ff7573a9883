"""What the database promises whatever becomes of those who use it."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError


async def test_whoever_is_interrupted_leaves_no_lock_behind(database):
    async with database.writing() as connection:
        await connection.execute(text("CREATE TABLE notes (n INTEGER)"))

    async def write(number):
        async with database.writing() as connection:
            for _ in range(3):
                await connection.execute(text("INSERT INTO notes VALUES (:n)"), {"n": number})

    for passes in range(40):
        task = asyncio.ensure_future(write(passes))
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.wait_for(write(-1), 60)
    async with database.reading() as connection:
        counts = (await connection.execute(text("SELECT n, count(*) FROM notes GROUP BY n"))).all()
    assert {count for number, count in counts if number >= 0} <= {3}
    assert dict(iter(counts))[-1] == 120


async def test_the_last_statement_may_commit_and_one_that_fails_undoes_all(database):
    async with database.writing() as connection:
        await connection.execute(text("CREATE TABLE notes (n INTEGER PRIMARY KEY)"))
    async with database.writing() as connection:
        await connection.execute(text("INSERT INTO notes VALUES (1)"))
        database.ending(connection)
        await connection.execute(text("INSERT INTO notes VALUES (2)"))

    async def refused():
        async with database.writing() as connection:
            await connection.execute(text("INSERT INTO notes VALUES (3)"))
            database.ending(connection)
            await connection.execute(text("INSERT INTO notes VALUES (1)"))

    with pytest.raises(IntegrityError):
        await refused()
    async with database.writing() as connection:
        # Nothing is left of what was said of a transaction before.
        await connection.execute(text("INSERT INTO notes VALUES (4)"))
        await connection.execute(text("INSERT INTO notes VALUES (5)"))
        await connection.rollback()
    async with database.reading() as connection:
        assert (await connection.execute(text("SELECT n FROM notes ORDER BY n"))).scalars().all() == [1, 2]
