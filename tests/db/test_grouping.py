"""Group commit: few transactions for many at a time, each with its own answer or its own failure."""

import asyncio

import pytest

from server.db.grouping import Grouped


class Table:
    """Keeps its transactions; refuses those with a bad one in them, and halts in one until told to go on."""

    def __init__(self):
        self.transactions, self.go_on = [], asyncio.Event()
        self.go_on.set()
        self.begun = asyncio.Event()

    async def transact(self, asked):
        self.begun.set()
        await self.go_on.wait()
        if "bad" in asked:
            raise ValueError(asked)
        self.transactions.append(list(asked))
        return [each.upper() for each in asked]


async def test_who_comes_meanwhile_shares_the_next_transaction():
    table = Table()
    grouped = Grouped(table.transact)
    table.go_on.clear()
    first = asyncio.create_task(grouped.do("a"))
    await table.begun.wait()
    others = [asyncio.create_task(grouped.do(letter)) for letter in "bcd"]
    await asyncio.sleep(0)
    table.go_on.set()
    assert await first == "A"
    assert await asyncio.gather(*others) == ["B", "C", "D"]
    assert table.transactions == [["a"], ["b", "c", "d"]]
    assert await grouped.do("e") == "E"


async def test_those_who_are_there_already_are_one_transaction():
    table = Table()
    grouped = Grouped(table.transact)
    assert await asyncio.gather(*(grouped.do(str(number)) for number in range(300))) == [str(number) for number in range(300)]
    assert [len(each) for each in table.transactions] == [128, 128, 44]


async def test_a_failure_is_that_of_who_asked_for_it():
    table = Table()
    grouped = Grouped(table.transact)
    answers = await asyncio.gather(*map(grouped.do, ["a", "bad", "c"]), return_exceptions=True)
    assert (answers[0], answers[2]) == ("A", "C")
    assert isinstance(answers[1], ValueError)
    with pytest.raises(ValueError, match="bad"):
        await grouped.do("bad")
    assert await grouped.do("d") == "D"


async def test_who_hangs_up_disturbs_nobody():
    table = Table()
    grouped = Grouped(table.transact)
    table.go_on.clear()
    first, second = (asyncio.create_task(grouped.do(letter)) for letter in "ab")
    await table.begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    table.go_on.set()
    assert await second == "B"


async def test_nobody_waits_for_ever_when_the_server_ends():
    table = Table()
    grouped = Grouped(table.transact)
    table.go_on.clear()
    waiting = [asyncio.create_task(grouped.do(letter)) for letter in "ab"]
    await table.begun.wait()
    later = asyncio.create_task(grouped.do("c"))
    await asyncio.sleep(0)
    next(task for task in asyncio.all_tasks() if task.get_name() == "group commit").cancel()
    answers = await asyncio.gather(*waiting, later, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
