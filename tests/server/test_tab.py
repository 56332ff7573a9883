"""What no budget refuses is written in batches: nothing is lost, nothing counts twice, nobody's mishap holds up the others."""

import asyncio

import pytest

from server.db.database import Database, beside
from server.db.ledger import SqlLedger
from server.db.migrating import migrate
from server.domain.clock import SetClock
from server.domain.generation import Usage
from server.domain.spending import Balance, Charge, Hold, Purse, lost
from server.gateway.tab import Tab
from server.telemetry.logs import silent

NOW = 1_795_000_000.0
ALL = Purse("", "openai")


def hold(name="j", *, attempt=1, usd=1.0):
    return Hold(name, attempt, "openai", "acme", "gpt-image-2", usd, NOW)


def charge(usd=0.25):
    return Charge(Usage(usd=usd), 1, 2.5, "gpt-image-2")


class Books(SqlLedger):
    """Books that fail as they are told, before or after what they did is there for good."""

    __slots__ = ("batches", "deaf", "refused", "shut", "tried")

    def __init__(self, database):
        super().__init__(database, SetClock(NOW), lambda _crossing: b"")
        self.batches, self.tried = [], 0
        self.shut, self.deaf = 0, 0
        self.refused = set()
        """Jobs that the database cannot write."""

    async def keep(self, opened, ended, *, owner, lease):
        self.tried += 1
        if self.shut:
            self.shut -= 1
            raise OSError("the database is away")
        if self.refused & {each.job_id for each in (*opened, *(each for each, _ in ended))}:
            raise ValueError("no such letter")
        await super().keep(opened, ended, owner=owner, lease=lease)
        self.batches.append((len(opened), len(ended)))
        if self.deaf:
            self.deaf -= 1
            raise OSError("the connection ended while it was committed")

    async def standing(self):
        return (await self.balances("2026-11")).get(ALL, Balance(ALL))

    async def charges(self):
        return sum(row.requests for row in await self.used(0, 1 << 30))


class Lines:
    """A log that is kept."""

    def __init__(self):
        self.errors = []

    def error(self, event, **fields):
        self.errors.append((event, fields))

    def exception(self, event, **fields):
        pass


@pytest.fixture
async def books(tmp_path):
    database = Database(beside(tmp_path))
    await migrate(database)
    yield Books(database)
    await database.close()


@pytest.fixture
async def tab(books):
    tab = Tab(books, "me", lambda: NOW + 60, silent())
    yield tab
    await tab.stop()


async def test_many_are_written_in_one_transaction_and_ended_in_the_next(books, tab):
    holds = [hold(f"j{index}") for index in range(50)]
    for each in holds:
        await tab.open(each)
    await tab.flush()
    assert books.batches == [(50, 0)]
    assert (await books.standing()).held == 50.0
    for index, each in enumerate(holds):
        assert tab.close(each, charge() if index % 5 else None)
    await tab.flush()
    assert books.batches[1:] == [(0, 50)]
    assert await books.standing() == Balance(ALL, pytest.approx(10.0), 0.0)
    assert (await books.charges(), list(tab)) == (40, [])


async def test_nobody_need_ask_for_it(books, tab):
    await tab.open(hold())
    assert books.batches == []
    tab.close(hold(), charge())
    while list(tab):
        await asyncio.wait_for(tab._turn.wait(), 60)
    assert (books.batches, await books.charges()) == ([(1, 0), (0, 1)], 1)


@pytest.mark.parametrize("deaf", [1, 2, 3])
async def test_a_transaction_that_may_have_happened_is_tried_again_and_counts_once(books, tab, deaf):
    books.deaf = deaf
    await tab.open(hold("a"))
    tab.close(hold("a"), charge())
    await tab.flush()
    await tab.open(hold("b"))
    tab.close(hold("b"), None)
    tab.close(hold("b"), charge())  # whoever comes second changes nothing
    await tab.flush()
    assert (books.deaf, await books.charges()) == (0, 1)
    assert await books.standing() == Balance(ALL, 0.25, 0.0)


async def test_a_database_that_was_away_costs_nothing(books, tab):
    books.shut = 10  # more than anybody waits for
    for index in range(20):
        await tab.open(hold(f"j{index}"))
    await tab.flush()
    assert 0 < books.shut < 10
    assert len(list(tab)) == 20
    for each in list(tab):
        tab.close(each, charge())
    await tab.flush()
    await tab.flush()
    assert (books.shut, await books.charges(), list(tab)) == (0, 20, [])


async def test_one_that_cannot_be_written_is_given_up_and_holds_up_no_other(books):
    log = Lines()
    tab = Tab(books, "me", lambda: NOW + 60, log)
    books.refused = {"j3"}
    for index in range(8):
        await tab.open(hold(f"j{index}"))
        tab.close(hold(f"j{index}"), charge())
    await tab.stop()
    assert await books.charges() == 7
    assert await books.standing() == Balance(ALL, pytest.approx(1.75), 0.0)
    told = {"job": "j3", "upstream": "openai", "usd": 0.25, "held_usd": 1.0}
    assert log.errors == [("what was spent is in no book", told)]


async def test_while_others_can_be_written_it_is_given_up_for_good(books):
    log = Lines()
    tab = Tab(books, "me", lambda: NOW + 60, log)
    books.refused = {"bad"}
    await tab.open(hold("bad"))
    tab.close(hold("bad"), charge())
    index = 0
    while hold("bad") in list(tab):
        index += 1
        await tab.open(hold(f"j{index}"))
        tab.close(hold(f"j{index}"), charge())
        await tab.flush()
    await tab.flush()
    assert (len(log.errors), await books.charges()) == (1, index)
    tried = books.tried
    await tab.stop()
    assert books.tried == tried


async def test_beyond_the_most_that_may_wait_the_oldest_are_given_up(books):
    log = Lines()
    tab = Tab(books, "me", lambda: NOW + 60, log, most=10)
    for index in range(14):
        await tab.open(hold(f"j{index}"))
        tab.close(hold(f"j{index}"), charge())
    for index in range(20):
        await tab.open(hold(f"runs{index}"))
    await tab.flush()
    assert [(event, fields["job"]) for event, fields in log.errors] == [
        ("what was spent is in no book", f"j{index}") for index in range(4)
    ]
    assert await books.standing() == Balance(ALL, 2.5, 20.0), "what runs is never given up"
    await tab.stop()


async def test_what_could_not_be_written_while_it_ran_is_when_it_ends(books):
    log = Lines()
    tab = Tab(books, "me", lambda: NOW + 60, log)
    books.refused = {"late"}
    await tab.open(hold("late"))
    for index in range(8):
        await tab.open(hold(f"j{index}"))
        tab.close(hold(f"j{index}"), charge())
        await tab.flush()
    books.refused = set()
    tab.close(hold("late"), charge())
    await tab.stop()
    assert (await books.charges(), log.errors) == (9, [])


async def test_a_charge_that_cannot_be_written_is_counted_by_its_hold(books):
    log = Lines()
    tab = Tab(books, "me", lambda: NOW + 60, log)
    await tab.open(hold("odd"))
    await tab.flush()
    books.refused = {"odd"}
    tab.close(hold("odd"), charge())
    await tab.stop()
    assert [event for event, _ in log.errors] == ["what was spent is counted by its hold"]
    books._clock.now = NOW + 61
    assert await books.sweep() == (hold("odd"),)
    assert await books.standing() == Balance(ALL, 1.0, 0.0)


async def test_the_same_hold_counts_once_unless_it_ended_in_between(books, tab):
    for _ in range(3):
        await tab.open(hold())
    for _ in range(3):
        assert tab.close(hold(), None)
    await tab.open(hold())
    assert tab.close(hold(), charge())
    await tab.flush()
    assert await books.charges() == 1
    assert await books.standing() == Balance(ALL, 0.25, 0.0)
    assert not tab.close(hold(), charge()), "it is over"


async def test_who_ends_a_hold_himself_finds_it_written(books, tab):
    await tab.open(hold())
    assert await tab.leave(hold())
    assert ((await books.standing()).held, list(tab)) == (1.0, [])
    assert not tab.close(hold(), charge())
    await books.settle(hold(), charge(), ())
    assert await books.standing() == Balance(ALL, 0.25, 0.0)
    assert await tab.leave(hold()), "what is not on the tab was written by others"


async def test_what_cannot_be_written_is_said_to_who_would_end_it(books, tab):
    books.shut = 1 << 30
    await tab.open(hold())
    assert not await tab.leave(hold())
    books.shut = 0
    assert list(tab) == []


async def test_who_is_cancelled_while_he_waits_for_the_books_leaves_nobody_waiting(books, tab):
    books.shut = 1
    await tab.open(hold())
    leaving = asyncio.create_task(tab.leave(hold()))
    flushing = asyncio.create_task(tab.flush())
    await tab._turn.wait()
    await asyncio.sleep(0)  # now nothing happens until the pause is over
    leaving.cancel()
    await asyncio.wait_for(flushing, 60)
    assert (list(tab), await books.charges()) == ([], 0)


async def test_what_runs_is_kept_alive_and_what_a_dead_server_left_is_counted(books, tab):
    await tab.open(hold("runs"))
    await tab.open(hold("left"))
    await tab.flush()
    await books.renew("me", {each.job_id for each in tab if each.job_id == "runs"}, NOW + 120)
    books._clock.now = NOW + 61
    assert await books.sweep() == (hold("left"),)
    tab.close(hold("left"), charge())
    tab.close(hold("runs"), charge())
    await tab.flush()
    assert await books.charges() == 2
    assert await books.standing() == Balance(ALL, pytest.approx(lost(hold()).usage.usd + 0.25), 0.0)


async def test_stopping_writes_what_there_is(books):
    tab = Tab(books, "me", lambda: NOW + 60, silent())
    for index in range(600):
        await tab.open(hold(f"j{index}"))
        tab.close(hold(f"j{index}"), charge(0.01))
    await tab.stop()
    assert (await books.charges(), list(tab)) == (600, [])
    assert max(opened + ended for opened, ended in books.batches) <= 256
