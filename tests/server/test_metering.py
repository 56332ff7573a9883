"""Roads whose cost is counted, over providers made of functions and a real database."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from pipelines.contract.errors import EngineFailure
from pipelines.contract.messages import RunStats
from pipelines.contract.request import ImageRequest, Sampling
from server.catalog.current import CurrentCatalog
from server.db.database import Database, beside
from server.db.ledger import SqlLedger
from server.db.migrating import migrate
from server.domain.call import Call
from server.domain.clock import SetClock
from server.domain.failures import BudgetSpent, UpstreamAmbiguous, UpstreamMisconfigured, UpstreamUnavailable
from server.domain.generation import Route, Usage
from server.domain.spending import Balance, Purse
from server.gateway.metering import Counted, Metered
from server.gateway.treasury import LEASE_SECONDS, Treasury
from server.providers.each import Each
from server.providers.fake import FunctionProvider, flat
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics

NOW = 1_795_000_000.0
ALL, MINE = Purse("", "openai"), Purse("acme", "openai")
MODELS = """
server: {default_model: a, prices: {gpu_hour_usd: 3.6}}
models: {a: {source: "fake:", family: fake}}
upstreams:
  openai: {model: gpt-image-2, monthly_budget_usd: 1}
  boundless: {kind: openai, model: gpt-image-2}
  secret: {kind: openai, model: unheard-of}
  priced: {kind: openai, model: unheard-of, monthly_budget_usd: 1}
tenants: {tight: {budget: {per_upstream: {openai: 0.3}}}}
"""
SPENT = Usage(input_text_tokens=1000, output_tokens=7024)
USD = 0.005 + 0.21072


def request(name="j"):
    return ImageRequest(name, "a", "a cat", 1024, 1024, (1,), Sampling("euler", 4, 1.0))


def call(name="j", tenant="acme", attempt=1):
    return Call(name, tenant, attempt=attempt)


async def answers(asked, _call):
    return replace(flat(asked), usage=SPENT, route=Route("openai", "gpt-image-2"))


class Office:
    """A treasury with its books in reach."""

    def __init__(self, folder):
        (folder / "models.yaml").write_text(MODELS)
        self.clock, self.metrics = SetClock(NOW), Metrics()
        self.database = Database(beside(folder))
        self.ledger = SqlLedger(self.database, self.clock, lambda _crossing: b"")
        self.current = CurrentCatalog(folder / "models.yaml", clock=self.clock, log=silent())
        self.treasury = self.another()

    def another(self, ledger=None):
        return Treasury(ledger or self.ledger, self.current, clock=self.clock, metrics=self.metrics, log=silent())

    def road(self, function=answers, name="openai", **fields):
        return Metered(FunctionProvider(function), name, self.treasury, self.clock, **fields)

    async def says(self, models):
        """Have models.yaml say ``models`` from now on."""
        await asyncio.to_thread(Path(self.current.status.path).write_text, models)
        assert await self.current.reload()

    async def balance(self, purse=ALL):
        await self.treasury.flush()
        found = await self.ledger.balances("2026-11", purse.tenant)
        return found.get(purse, Balance(purse))

    async def rows(self):
        await self.treasury.flush()
        return await self.ledger.used(0, 1 << 30)


@pytest.fixture
async def office(tmp_path):
    office = Office(tmp_path)
    await migrate(office.database)
    yield office
    await office.treasury.flush()
    await office.database.close()


async def test_an_answer_carries_its_price_and_the_books_have_it(office):
    made = await office.road().generate(request(), call())
    assert made.usage == replace(SPENT, usd=pytest.approx(USD))
    assert await office.balance() == Balance(ALL, pytest.approx(USD), 0.0)
    (row,) = await office.rows()
    assert (row.tenant, row.road, row.model, row.images, row.output_tokens) == ("acme", "openai", "gpt-image-2", 1, 7024)
    assert b'aquatint_usd_total{road="openai"} 0.215' in office.metrics.render()


async def test_while_it_runs_the_most_that_it_can_cost_is_held(office):
    inside, go = asyncio.Event(), asyncio.Event()

    async def slow(asked, call):
        inside.set()
        await go.wait()
        return await answers(asked, call)

    task = asyncio.create_task(office.road(slow).generate(request(), call()))
    await inside.wait()
    held = (await office.balance()).held
    assert 0.2107 < held < 0.25
    go.set()
    await task
    assert (await office.balance()).held == 0.0


async def test_less_is_held_for_a_quality_that_is_known_and_each_request_of_a_job_by_itself(office):
    seen = []

    async def looking(asked, call):
        seen.append((await office.ledger.balances("2026-11"))[ALL].held)
        return await answers(asked, call)

    road = office.road(looking, asks=lambda _request, _call: ("gpt-image-1-mini", "low"))
    for name in ("j-0", "j-1"):
        await road.generate(request(name), call("j"))
    await office.treasury.flush()
    assert max(seen) < 0.006
    assert [row.requests for row in await office.rows()] == [2]


@pytest.mark.parametrize(
    ("error", "steps", "spent"),
    [
        (UpstreamUnavailable("no"), ["sending", "spared"], False),
        (UpstreamUnavailable("it was not sent"), [], False),
        (UpstreamMisconfigured("no"), ["sending", "spared"], False),
        (UpstreamAmbiguous("who knows"), ["sending"], True),
        (UpstreamAmbiguous("sent by another server"), [], False),
        (ValueError("our mistake, afterwards"), ["sending"], True),
        (ValueError("our mistake, before"), [], False),
    ],
)
async def test_a_failure_gives_the_money_back_unless_nobody_knows(office, error, steps, spent):
    async def failing(_asked, call):
        for step in steps:
            getattr(call, step)()
        raise error

    with pytest.raises(type(error)):
        await office.road(failing).generate(request(), call())
    balance = await office.balance()
    assert balance.held == 0.0
    assert (balance.spent > 0.2) is spent
    assert [(row.images, row.unconfirmed_usd > 0) for row in await office.rows()] == ([(0, True)] if spent else [])


@pytest.mark.parametrize("sent", [True, False])
async def test_who_leaves_midway_may_have_cost_something_once_it_was_sent(office, sent):
    inside = asyncio.Event()

    async def hanging(_asked, call):
        if sent:
            call.sending()
        inside.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(office.road(hanging).generate(request(), call()))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    balance = await office.balance()
    assert (balance.held, balance.spent > 0.2) == (0.0, sent)


async def test_who_leaves_before_anything_was_held_has_cost_nothing(office):
    task = asyncio.create_task(office.road().generate(request(), call()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await office.balance() == Balance(ALL, 0.0, 0.0)


class Shaky:
    """A ledger whose next changes fail; a reserve waits for its gate."""

    def __init__(self, ledger, failures=0):
        self.ledger, self.failures, self.reserving, self.gate = ledger, failures, asyncio.Event(), asyncio.Event()

    def __getattr__(self, name):
        return getattr(self.ledger, name)

    async def reserve(self, *args, **fields):
        self.reserving.set()
        await self.gate.wait()
        self._fail()
        return await self.ledger.reserve(*args, **fields)

    async def keep(self, *args, **fields):
        await self.gate.wait()
        self._fail()
        await self.ledger.keep(*args, **fields)

    async def settle(self, *args):
        self._fail()
        return await self.ledger.settle(*args)

    async def release(self, hold):
        self._fail()
        await self.ledger.release(hold)

    def _fail(self):
        if self.failures:
            self.failures -= 1
            raise OSError("the database is away")


@pytest.mark.parametrize(("steps", "spent"), [(["sending"], True), ([], False)])
async def test_a_database_that_is_away_for_a_moment_changes_no_charge(office, steps, spent):
    async def failing(_asked, call):
        for step in steps:
            getattr(call, step)()
        shaky.failures = 2
        raise UpstreamAmbiguous("who knows")

    shaky = Shaky(office.ledger)
    office.treasury = office.another(shaky)
    shaky.gate.set()
    with pytest.raises(UpstreamAmbiguous):
        await office.road(failing).generate(request(), call())
    balance = await office.balance()
    assert (balance.held, balance.spent > 0.2, office.treasury._live) == (0.0, spent, set())


async def test_where_no_budget_holds_nobody_waits_for_the_books(office):
    """The request is on its way before it is written down; whatever the database does, what it has cost is counted."""
    shaky = Shaky(office.ledger)
    office.treasury = office.another(shaky)
    purse = Purse("", "boundless")

    async def sent(asked, call):
        call.sending()
        shaky.gate.set()  # until then nothing could be written
        if asked.id == "held":
            assert (await office.balance(purse)).held > 0.2
        return await answers(asked, call)

    road = office.road(sent, name="boundless")
    await road.generate(request("held"), call("held"))
    assert await office.balance(purse) == Balance(purse, pytest.approx(USD), 0.0)
    shaky.gate.clear()
    shaky.failures = 2
    await road.generate(request("away"), call("away"))
    assert await office.balance(purse) == Balance(purse, pytest.approx(2 * USD), 0.0)
    assert (shaky.failures, office.treasury._live) == (0, set())


@pytest.mark.parametrize("written", [True, False])
async def test_a_budget_that_comes_while_a_request_is_on_its_way_counts_it(office, written):
    purse = Purse("", "boundless")

    async def sent(asked, call):
        if written:
            await office.treasury.flush()
        await office.says(MODELS.replace("boundless: {", "boundless: {monthly_budget_usd: 0.25, "))
        return await answers(asked, call)

    await office.road(sent, name="boundless").generate(request(), call())
    assert await office.balance(purse) == Balance(purse, pytest.approx(USD), 0.0)
    assert b'aquatint_budget_crossed_total{percent="80",upstream="boundless",whose="all"} 1.0' in office.metrics.render()
    with pytest.raises(BudgetSpent):
        await office.road(name="boundless").generate(request("next"), call("next"))
    assert (await office.rows())[0].requests == 1
    await office.says(MODELS)
    await office.road(name="boundless").generate(request("free again"), call("free again"))
    assert (await office.rows())[0].requests == 2


async def test_who_leaves_while_a_budget_is_found_spent_leaves_the_news(office):
    for index in range(4):
        await office.road().generate(request(f"j{index}"), call(f"j{index}"))
        await office.treasury.flush()
    shaky = Shaky(office.ledger)
    office.treasury = office.another(shaky)
    task = asyncio.create_task(office.road().generate(request("j4"), call("j4")))
    await shaky.reserving.wait()
    task.cancel()
    shaky.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await office.balance()).held == 0.0
    assert b'aquatint_budget_crossed_total{percent="100",upstream="openai",whose="all"} 1.0' in office.metrics.render()


async def test_a_spent_budget_closes_the_road_before_anything_is_sent(office):
    sent = []

    async def counting(asked, call):
        sent.append(call.id)
        return await answers(asked, call)

    road = office.road(counting)
    for index in range(4):
        await road.generate(request(f"j{index}"), call(f"j{index}"))
        await office.treasury.flush()
    with pytest.raises(BudgetSpent, match="this server's budget for 'openai' in 2026-11"):
        await road.generate(request("j4"), call("j4"))
    assert sent == ["j0", "j1", "j2", "j3"]
    assert b'aquatint_budget_crossed_total{percent="80",upstream="openai",whose="all"} 1.0' in office.metrics.render()
    office.clock.now += 20 * 86_400
    await road.generate(request("december"), call("december"))
    assert sent[-1] == "december"


async def test_a_tenants_own_budget_is_named_with_its_figure(office):
    road = office.road()
    await road.generate(request("a"), call("a", "tight"))
    await office.treasury.flush()
    with pytest.raises(BudgetSpent, match=r"your budget of 0\.3 US dollars for 'openai'"):
        await road.generate(request("b"), call("b", "tight"))
    await road.generate(request("c"), call("c", "acme"))


async def test_without_a_price_a_budget_cannot_be_kept(office):
    with pytest.raises(UpstreamMisconfigured, match="unheard-of"):
        await office.road(name="priced").generate(request(), call())
    made = await office.road(FunctionProvider().generate, "secret").generate(request(), call())
    assert made.usage.usd == 0.0
    (row,) = await office.rows()
    assert (row.images, row.usd) == (1, 0.0)


def several(*seeds):
    return replace(request(), seeds=seeds)


async def test_a_budget_for_some_of_several_pictures_pays_for_none_of_them(office):
    sent = []

    async def counting(asked, call):
        sent.append(asked.id)
        return await answers(asked, call)

    road = Each(office.road(counting))
    with pytest.raises(BudgetSpent):
        await road.generate(several(1, 2, 3, 4, 5), call())
    assert (sent, await office.balance(), await office.rows()) == ([], Balance(ALL, 0.0, 0.0), ())
    await road.generate(several(1, 2, 3, 4), call(attempt=2))
    balance = await office.balance()
    assert (sorted(sent), balance) == (["j-0", "j-1", "j-2", "j-3"], Balance(ALL, pytest.approx(4 * USD), 0.0))
    assert [(row.requests, row.images) for row in await office.rows()] == [(4, 4)]


@pytest.mark.parametrize("left", [False, True])
async def test_of_several_pictures_each_is_charged_by_what_became_of_it(office, left):
    """The first is made, the second not heard of, the third waits for its turn; the fourth fails, or the client leaves."""
    under_way, seen = asyncio.Event(), []

    async def differing(asked, call):
        (seed,) = asked.seeds
        if seed == 3:
            await asyncio.Event().wait()
        if seed == 4:
            await under_way.wait()
            seen.append((await office.ledger.balances("2026-11"))[ALL].held)
            if left:
                task.cancel()
                await asyncio.Event().wait()
            raise UpstreamUnavailable("no")
        call.sending()
        if seed == 2:
            under_way.set()
            await asyncio.Event().wait()
        return await answers(asked, call)

    task = asyncio.create_task(Each(office.road(differing)).generate(several(1, 2, 3, 4), call()))
    with pytest.raises(asyncio.CancelledError if left else UpstreamAmbiguous):
        await task
    balance = await office.balance()
    (row,) = await office.rows()
    assert balance == Balance(ALL, pytest.approx(USD + row.unconfirmed_usd), 0.0)
    assert (row.requests, row.images) == (2, 1)
    assert 0.2107 < row.unconfirmed_usd < 0.25
    assert seen[0] > 0.6, "the money of those that wait is held"
    assert office.treasury._live == set()


async def test_of_several_pictures_those_never_begun_are_given_back(office):
    async def failing(_asked, _call):
        raise UpstreamUnavailable("no")

    async with office.road(failing).reserved((request("a"), request("b")), call()) as (first, _second):
        assert (await office.balance()).held > 0.4
        with pytest.raises(UpstreamUnavailable):
            await first.generate(request("a"), call())
        assert (await office.balance()).held > 0.2
    assert (await office.balance(), office.treasury._live) == (Balance(ALL, 0.0, 0.0), set())


async def test_each_attempt_of_a_job_is_charged_and_none_twice(office):
    road = office.road()
    for attempt in (1, 2):
        await road.generate(request(), call(attempt=attempt))
    assert (await office.balance()).spent == pytest.approx(2 * USD)


async def test_what_a_dead_server_held_is_counted_by_the_next(office):
    await office.treasury.reserve("openai", request("lost"), call("lost"))
    other = office.another()
    async with other.running():
        assert (await office.balance()).held > 0.2
    office.clock.now += LEASE_SECONDS + 1
    async with other.running():
        balance = await office.balance()
    assert (balance.held, balance.spent > 0.2) == (0.0, True)


@pytest.mark.parametrize("road", ["openai", "boundless"])
async def test_what_a_living_server_holds_is_not_counted_by_another(office, road):
    class Heard(Shaky):
        async def renew(self, *args):
            await self.ledger.renew(*args)
            self.gate.set()

    heard = Heard(office.ledger)
    heard.gate.set()
    office.treasury = office.another(heard)
    await office.treasury.reserve(road, request("runs"), call("runs"))
    await office.treasury.flush()
    heard.gate.clear()
    office.clock.now += LEASE_SECONDS - 1
    async with office.treasury.running():
        await heard.gate.wait()
        office.clock.now += LEASE_SECONDS - 1
        async with office.another().running():
            balance = await office.balance(Purse("", road))
    assert (balance.held > 0.2, balance.spent) == (True, 0.0)


async def test_books_that_stay_closed_let_the_server_end(office):
    shaky = Shaky(office.ledger, failures=1 << 30)
    shaky.gate.set()
    treasury = office.another(shaky)
    async with treasury.running():
        await treasury.reserve("boundless", request(), call())
    assert [task for task in asyncio.all_tasks() if task.get_name() == "tab"] == []


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_metering import Office, answers, call, request

async def main():
    office = Office(Path(sys.argv[1]))

    async def dying(asked, called):
        if called.id == "during":
            os.kill(os.getpid(), signal.SIGKILL)
        return await answers(asked, called)

    async with office.treasury.running():
        road = office.road(dying)
        for name in ("settled", "during"):
            await road.generate(request(name), call(name))
            await office.treasury.flush()

asyncio.run(main())
"""


async def test_sigkill_leaves_one_charge_for_each_attempt(office):
    """One was settled, one was at the upstream when the server was killed; the job is tried again by the next."""
    folder = office.current.status.path.rpartition("/")[0]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, folder, str(Path(__file__).parent))
    assert await process.wait() == -signal.SIGKILL
    async with office.another().running(alone=True):
        await office.road().generate(request("during"), call("during", attempt=2))
        rows = await office.rows()
    assert [(row.requests, row.images) for row in rows] == [(3, 2)]
    assert rows[0].usd - rows[0].unconfirmed_usd == pytest.approx(2 * USD)
    assert 0.21 < rows[0].unconfirmed_usd < 0.25
    assert (await office.balance()).held == 0.0


async def test_alone_nobody_waits_for_the_dead(office):
    await office.treasury.reserve("openai", request("lost"), call("lost"))
    async with office.another().running(alone=True):
        assert (await office.balance()).held == 0.0


async def test_the_standing_of_budgets_is_known(office):
    await office.road().generate(request(), call())
    await office.treasury.flush()
    await office.treasury._look()
    standing = {each.upstream: each for each in office.treasury.standing()}
    assert set(standing) == {"openai", "priced"}
    assert standing["openai"].used == pytest.approx(USD, abs=1e-4)
    assert standing["openai"].open


async def test_our_own_work_costs_its_share_of_the_device(office):
    async def local(asked, _call):
        return replace(flat(asked), stats=RunStats(0, 0, 0, 0, 4, 1.0, device_seconds=2.0), device="cuda:0")

    road = Counted(FunctionProvider(local), office.treasury, office.clock)
    for _ in range(3):
        made = await road.generate(request(), call())
    assert made.usage == Usage(usd=pytest.approx(0.002), gpu_seconds=2.0)
    (row,) = await office.rows()
    assert (row.road, row.model, row.requests, row.images) == ("local", "a", 3, 3)
    assert (row.usd, row.gpu_seconds) == (pytest.approx(0.006), 6.0)
    assert await office.balance(MINE) == Balance(MINE)


async def test_pictures_that_were_there_are_charged_without_a_budget(office):
    for _ in range(2):
        office.treasury.again(call(), "gpt-image-2", 3, Usage(usd=0.1))
    (row,) = await office.rows()
    assert (row.tenant, row.road, row.model, row.requests, row.images, row.usd) == ("acme", "cache", "gpt-image-2", 2, 6, 0.2)
    assert await office.balance() == Balance(ALL)


async def test_closed_books_stop_no_picture_and_forget_nothing(office):
    class Closed:
        def __init__(self, ledger):
            self.ledger, self.closed = ledger, True

        async def book(self, rows):
            if self.closed:
                raise OSError("disk full")
            await self.ledger.book(rows)

    closed = Closed(office.ledger)
    office.treasury = office.another(closed)
    road = Counted(FunctionProvider(), office.treasury, office.clock)
    await road.generate(request(), call())
    await office.treasury.flush()
    assert await office.ledger.used(0, 1 << 30) == ()
    closed.closed = False
    await road.generate(request(), call())
    assert [row.images for row in await office.rows()] == [2]
    with pytest.raises(EngineFailure):
        await Counted(FunctionProvider(_broken), office.treasury, office.clock).generate(request(), call())


async def _broken(_asked, _call):
    raise EngineFailure("no")
