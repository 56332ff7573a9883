"""The books, on both databases: what is held, what is spent, and that nothing is spent twice."""

import asyncio
import itertools
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from pipelines.contract.errors import TooLarge
from server.db.database import Database, beside
from server.db.ledger import SqlLedger
from server.db.migrating import migrate
from server.db.quotas import SqlQuotas
from server.db.tables import WEBHOOKS
from server.domain.clock import SetClock
from server.domain.generation import Usage
from server.domain.spending import Balance, Charge, Hold, Limit, Purse, day_of, month_of, used_row
from server.gateway.notices import compose

NOW = 1_795_000_000.0  # 2026-11-18
ALL, MINE = Purse("", "openai"), Purse("acme", "openai")


def hold(job="j", usd=1.0, *, attempt=1, upstream="openai", tenant="acme", at=NOW):
    return Hold(job, attempt, upstream, tenant, "gpt-image-2", usd, at)


def charge(usd, images=1, *, confirmed=True):
    return Charge(Usage(usd=usd, output_tokens=100), images, 2.5, "gpt-image-2", confirmed=confirmed)


@pytest.fixture
def clock():
    return SetClock(NOW)


@pytest.fixture
def ledger(database, clock):
    return SqlLedger(database, clock, lambda crossing: compose(crossing, clock))


async def reserve(ledger, held, *limits, owner="me", lease=NOW + 60):
    return await ledger.reserve(held, limits, owner=owner, lease=lease)


async def test_what_is_held_becomes_what_is_spent(ledger):
    assert await reserve(ledger, hold(usd=1.0)) is None
    assert (await ledger.balances("2026-11"))[ALL] == Balance(ALL, 0.0, 1.0)
    await ledger.settle(hold(), charge(0.25), ())
    for purse, balances in ((ALL, await ledger.balances("2026-11")), (MINE, await ledger.balances("2026-11", "acme"))):
        assert balances[purse] == Balance(purse, 0.25, 0.0)
    assert (await ledger.balances("2026-11", "acme"))[Purse("acme")].spent == 0.25
    (row,) = await ledger.used(day_of(NOW), day_of(NOW) + 1, "acme")
    assert (row.requests, row.images, row.usd, row.unconfirmed_usd, row.output_tokens) == (1, 1, 0.25, 0.0, 100)
    assert await ledger.used(day_of(NOW), day_of(NOW) + 1, "other") == ()


async def test_an_attempt_is_held_and_charged_once_however_often_it_is_told(ledger):
    for _ in range(3):
        assert await reserve(ledger, hold()) is None
    assert (await ledger.balances("2026-11"))[ALL].held == 1.0
    await asyncio.gather(*(ledger.settle(hold(), charge(0.5), ()) for _ in range(5)))
    await ledger.release(hold())
    assert (await ledger.balances("2026-11"))[ALL] == Balance(ALL, 0.5, 0.0)
    assert (await ledger.used(0, 1 << 30))[0].requests == 1
    await reserve(ledger, hold(attempt=2))
    await ledger.settle(hold(attempt=2), charge(0.5), ())
    assert (await ledger.balances("2026-11"))[ALL].spent == 1.0


async def test_a_limit_counts_what_is_held_and_a_release_gives_it_back(ledger):
    limit = Limit(ALL, 2.0)
    assert await reserve(ledger, hold("a"), limit) is None
    assert await reserve(ledger, hold("b"), limit) is None
    refused = await reserve(ledger, hold("c"), limit)
    assert (refused.limit, refused.crossing) == (limit, None)
    await ledger.release(hold("a"))
    assert await reserve(ledger, hold("c"), limit) is None
    assert await reserve(ledger, hold("d", upstream="other")) is None


async def test_a_refusal_tells_that_a_budget_is_spent_only_where_it_nearly_is(ledger):
    limit = Limit(ALL, 10.0)
    assert (await reserve(ledger, hold("huge", 11.0), limit)).crossing is None
    told = []
    for index, usd in enumerate((7.0, 1.5)):
        await reserve(ledger, hold(str(index), usd), limit)
        told += [each.percent for each in await ledger.settle(hold(str(index), usd), charge(usd), (limit,))]
    assert told == [80], "it was not silenced"
    crossing = (await reserve(ledger, hold("a"), limit), await reserve(ledger, hold("b", 2.0), limit))[1].crossing
    assert (crossing.percent, crossing.spent) == (100, 8.5)
    assert (await reserve(ledger, hold("c", 2.0), limit)).crossing is None, "told once"


async def test_each_limit_of_a_tenant_holds(ledger):
    of_tenant, of_both = Limit(Purse("acme"), 3.0), Limit(MINE, 1.0)
    assert await reserve(ledger, hold("a"), of_tenant, of_both) is None
    assert (await reserve(ledger, hold("b"), of_tenant, of_both)).limit == of_both
    assert await reserve(ledger, hold("c", upstream="other"), of_tenant) is None
    assert await reserve(ledger, hold("d", upstream="other"), of_tenant) is None
    assert (await reserve(ledger, hold("e", upstream="other"), of_tenant)).limit == of_tenant
    assert await reserve(ledger, hold("f", tenant="beta"), Limit(Purse("beta"), 1.0)) is None


async def test_months_are_apart_and_a_charge_belongs_to_the_month_of_its_beginning(ledger, clock):
    december = 1_796_083_200.0
    assert (month_of(december - 1), month_of(december)) == ("2026-11", "2026-12")
    before = hold("a", at=december - 1)
    await reserve(ledger, before, Limit(ALL, 1.0))
    clock.now = december + 5
    assert await reserve(ledger, hold("b", at=clock.now), Limit(ALL, 1.0)) is None
    await ledger.settle(before, charge(0.5), ())
    assert (await ledger.balances("2026-11"))[ALL].spent == 0.5
    assert (await ledger.balances("2026-12"))[ALL] == Balance(ALL, 0.0, 1.0)


async def test_thresholds_are_told_once_each_and_the_tenant_gets_a_message(ledger, database):
    limits = (Limit(ALL, 100.0), Limit(Purse("acme"), 10.0, "https://acme.example/hook"))
    told = []
    for index, usd in enumerate((7.0, 1.0, 0.5, 1.5, 1.0)):
        await reserve(ledger, hold(str(index), usd=usd))
        told += [(each.limit.purse, each.percent) for each in await ledger.settle(hold(str(index)), charge(usd), limits)]
    assert told == [(Purse("acme"), 80), (Purse("acme"), 100)]
    async with database.reading() as connection:
        rows = (await connection.execute(select(WEBHOOKS).order_by(WEBHOOKS.c.body))).all()
    bodies = sorted((json.loads(row.body) for row in rows), key=lambda body: body["data"]["percent"])
    assert [body["type"] for body in bodies] == ["budget.warning", "budget.spent"]
    assert bodies[0]["data"] == {
        "tenant": "acme",
        "upstream": None,
        "month": "2026-11",
        "limit_usd": 10.0,
        "spent_usd": 8.0,
        "percent": 80,
    }
    assert {(row.tenant, row.url, row.state) for row in rows} == {("acme", "https://acme.example/hook", "pending")}


async def test_what_the_dead_held_counts_as_spent_and_the_living_keep_theirs(ledger, clock):
    await reserve(ledger, hold("dead"), owner="dead")
    await reserve(ledger, hold("lives"), owner="lives")
    clock.now += 50
    await ledger.renew("lives", ["lives"], clock.now + 60)
    assert await ledger.sweep() == ()
    clock.now += 50
    assert [each.job_id for each in await ledger.sweep()] == ["dead"]
    await ledger.settle(hold("dead"), charge(0.1), ())
    assert (await ledger.balances("2026-11"))[ALL] == Balance(ALL, 1.0, 1.0)
    (row,) = await ledger.used(0, 1 << 30)
    assert (row.requests, row.images, row.usd, row.unconfirmed_usd) == (1, 0, 1.0, 1.0)
    assert [each.job_id for each in await ledger.sweep(everybody=True)] == ["lives"]


async def test_our_own_work_adds_up_by_day_tenant_and_model(ledger):
    first, next_day = (used_row("acme", "local", Charge(Usage(0.001, 2.0), 3, 4.0, "sdxl"), at) for at in (NOW, NOW + 86_400))
    await ledger.book([first])
    await ledger.book([next_day, first])
    await ledger.book([])
    rows = await ledger.used(day_of(NOW), day_of(NOW) + 2)
    assert [(row.requests, row.images, round(row.usd, 6), row.gpu_seconds, row.seconds) for row in rows] == [
        (2, 6, 0.002, 4.0, 8.0),
        (1, 3, 0.001, 2.0, 4.0),
    ]
    assert await ledger.balances("2026-11", "acme") == {}


async def test_what_was_used_is_added_up_by_the_database_and_never_cut(ledger, database, clock):
    rows = [
        used_row(tenant, "local", Charge(Usage(0.5, 2.0, output_tokens=1 << 40), 1 << 30, 4.0, model), NOW + day * 86_400)
        for tenant in ("acme", "beta")
        for model in ("sdxl", "sd3")
        for day in range(3)
    ]
    await ledger.book(rows)
    since, until = day_of(NOW), day_of(NOW) + 3
    assert len(await ledger.used(since, until)) == 12
    found = await ledger.used(since, until, apart=("road", "model"))
    assert [(row.day, row.tenant, row.road, row.model) for row in found] == [
        (since, "", "local", "sd3"),
        (since, "", "local", "sdxl"),
    ]
    assert {(row.requests, row.images, row.usd, row.output_tokens) for row in found} == {(6, 6 << 30, 3.0, 6 << 40)}
    assert all(isinstance(row.output_tokens, int) for row in found)
    small = SqlLedger(database, clock, lambda _crossing: b"", most=11)
    assert len(await small.used(since, until, apart=("tenant", "road", "model"))) == 4
    with pytest.raises(TooLarge, match="11 lines"):
        await small.used(since, until)


async def kept(ledger, opened, ended=()):
    await ledger.keep(opened, ended, owner="me", lease=NOW + 60)


def many():
    """Holds of several tenants on several roads, around the end of a month; and what came of them."""
    holds = [
        hold(f"j{index}", 1 + index / 8, upstream=upstream, tenant=tenant, at=NOW + 86_400 * (index % 3) * 10)
        for index, (upstream, tenant) in enumerate(itertools.product(("openai", "stability", "other"), ("acme", "beta", "", "z")))
    ]
    return holds, [(each, charge(index / 16) if index % 4 else None) for index, each in enumerate(holds)]


async def standing(ledger):
    """All that the books say."""
    purses = [await ledger.balances(month, tenant) for month in ("2026-11", "2026-12") for tenant in ("", "acme", "beta", "z")]
    return purses, await ledger.used(0, 1 << 30)


async def test_many_at_a_time_come_to_what_they_come_to_one_by_one(ledger, tmp_path):
    holds, ended = many()
    other = Database(beside(tmp_path / "one by one"))
    await migrate(other)
    try:
        alone = SqlLedger(other, SetClock(NOW), lambda _crossing: b"")
        await kept(ledger, holds)
        for each in holds:
            await reserve(alone, each)
        assert await standing(ledger) == await standing(alone)
        for _ in range(2):  # the second time by somebody who has not heard of the first
            await kept(ledger, holds[:3], ended)
            await kept(ledger, [], [(each, None) for each in holds[:3]])
        for each, came in ended[:3]:
            await (alone.release(each) if came is None else alone.settle(each, came, ()))
        for each, came in ended[3:]:
            await (alone.release(each) if came is None else alone.settle(each, came, ()))
        assert await standing(ledger) == await standing(alone)
    finally:
        await other.close()


async def test_all_of_it_happens_or_nothing(ledger):
    other = hold("b", upstream="other")
    await kept(ledger, [hold("a"), other])
    with pytest.raises(IntegrityError):  # by the last of its statements
        await kept(ledger, [hold("c")], [(hold("a"), charge(0.5)), (other, charge(0.5, None))])
    assert (await ledger.balances("2026-11"))[ALL] == Balance(ALL, 0.0, 1.0)
    assert await ledger.used(0, 1 << 30) == ()
    await kept(ledger, [hold("c")], [(hold("a"), charge(0.5))])
    assert (await ledger.balances("2026-11"))[ALL] == Balance(ALL, 0.5, 1.0)


async def test_servers_that_write_many_at_a_time_never_wait_for_each_other_in_a_ring(address, database, clock):
    """Each has the same purses and lines of usage in another order, while others hold, end, renew and sweep one at a time."""
    servers = [Database(address) for _ in range(4)]
    limits = (Limit(Purse("", "openai"), 1e9), Limit(Purse("acme"), 1e9), Limit(Purse("acme", "openai"), 1e9))
    try:
        books = [SqlLedger(server, clock, lambda _crossing: b"") for server in servers]

        async def batches(number):
            for time in range(6):
                _, ended = many()
                order = random.Random(10 * number + time)
                mine = [(replace(each, job_id=f"{number}-{time}-{each.job_id}"), came) for each, came in ended]
                order.shuffle(mine)
                await kept(books[number], [each for each, _ in mine])
                order.shuffle(mine)
                renewing = books[number].renew("me", [each.job_id for each, _ in mine], NOW + 120)
                await asyncio.gather(kept(books[number], [], mine), renewing)

        async def singles(number):
            for time in range(24):
                held = hold(f"{number}-{time}")
                await books[number].reserve(held, limits, owner="other", lease=NOW - 1 if time % 3 else NOW + 60)
                await books[number].sweep()
                await books[number].settle(held, charge(0.5), limits)

        await asyncio.gather(batches(0), batches(1), singles(2), singles(3))
    finally:
        for server in servers:
            await server.close()
    books = SqlLedger(database, clock, lambda _crossing: b"")
    assert {each.held for each in (await books.balances("2026-11")).values()} == {0.0}
    assert sum(row.requests for row in await books.used(0, 1 << 30)) == 2 * 6 * 9 + 2 * 24


async def test_several_servers_together_never_hold_more_than_the_limit(address, database, clock):
    servers = [Database(address) for _ in range(3)]
    try:
        books = [SqlLedger(server, clock, lambda _crossing: b"") for server in servers]
        limits = {name: (Limit(Purse("", name), 5.0), Limit(Purse("acme"), 8.0)) for name in ("openai", "other")}

        async def one(index):
            upstream = ("openai", "other")[index % 2]
            held = hold(f"j{index}", upstream=upstream)
            return await books[index % 3].reserve(held, limits[upstream], owner="me", lease=NOW + 60)

        refused = await asyncio.gather(*(one(index) for index in range(24)))
    finally:
        for server in servers:
            await server.close()
    assert sum(each is None for each in refused) == 8
    balances = await SqlLedger(database, clock, lambda _crossing: b"").balances("2026-11", "acme")
    assert balances[Purse("acme")].held == 8.0
    assert sum(each.crossing is not None for each in refused if each) <= 3


@given(
    actions=st.lists(
        st.tuples(
            st.integers(1, 300),  # cents expected at most
            st.integers(0, 400),  # per cent of that which it costs in the end
            st.sampled_from(["settle", "release", "lose", "hold", "twice"]),
            st.sampled_from(["acme", "beta"]),
        ),
        max_size=25,
    ),
    limit=st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
async def test_a_limit_is_overshot_by_wrong_estimates_only(tmp_path_factory, actions, limit):
    clock, database = SetClock(NOW), Database(beside(tmp_path_factory.mktemp("books")))
    await migrate(database)
    try:
        books = SqlLedger(database, clock, lambda _crossing: b"")
        limits, wrong, spent = (Limit(ALL, limit / 100),), [0.0], [0.0]

        async def one(index, cents, percent, fate, tenant):
            held = hold(f"j{index}", usd=cents / 100, tenant=tenant)
            if await books.reserve(held, limits, owner="me", lease=NOW + 60) is not None:
                return
            usd = held.usd * percent / 100
            if fate in ("settle", "twice"):
                await books.settle(held, charge(usd), limits)
                spent[0] += usd
                wrong[0] += max(0.0, usd - held.usd)
            if fate == "twice":
                await books.settle(held, charge(usd), limits)
            if fate == "lose":
                await books.settle(held, charge(held.usd, 0, confirmed=False), limits)
                spent[0] += held.usd
            if fate == "release":
                await books.release(held)

        await asyncio.gather(*(one(index, *action) for index, action in enumerate(actions)))
        balance = (await books.balances("2026-11")).get(ALL, Balance(ALL))
        assert balance.spent + balance.held <= limit / 100 + wrong[0] + 1e-6
        assert balance.spent == pytest.approx(spent[0])
        used = sum(row.usd for row in await books.used(0, 1 << 30))
        assert used == pytest.approx(spent[0])
    finally:
        await database.close()


async def test_images_of_a_day_are_granted_up_to_the_limit_and_not_forgotten(database, address):
    quotas = SqlQuotas(database)
    granted = await asyncio.gather(*(quotas.take("acme", 2, 7, NOW) for _ in range(6)))
    assert sum(granted) == 3
    other = Database(address)
    try:
        assert await SqlQuotas(other).take("acme", 1, 7, NOW)
        assert not await SqlQuotas(other).take("acme", 1, 7, NOW)
    finally:
        await other.close()
    assert (await quotas.taken("acme", NOW), await quotas.taken("new", NOW)) == (7, 0)
    assert not await quotas.take("new", 8, 7, NOW)
    assert await quotas.take("beta", 7, 7, NOW)
    assert await quotas.take("acme", 7, 7, NOW + 86_400)
