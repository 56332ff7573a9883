"""What the database promises whatever becomes of those who use it."""

import asyncio

from sqlalchemy import text


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
        await asyncio.wait_for(write(-1), 5)
    async with database.reading() as connection:
        counts = (await connection.execute(text("SELECT n, count(*) FROM notes GROUP BY n"))).all()
    assert {count for number, count in counts if number >= 0} <= {3}
    assert dict(iter(counts))[-1] == 120
