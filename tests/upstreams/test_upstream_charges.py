"""What the books have of a request to an upstream: the real road and provider before a double, a real database."""

from types import SimpleNamespace

import pytest

from pipelines.contract.request import ImageRequest, Sampling
from server.catalog.current import CurrentCatalog
from server.catalog.pricing import estimate
from server.db.database import Database, beside
from server.db.ledger import SqlLedger
from server.db.migrating import migrate
from server.db.upstream_requests import SqlUpstreamRequests
from server.domain.call import Call
from server.domain.clock import SystemClock
from server.domain.failures import BudgetSpent, ModerationBlocked, UpstreamAmbiguous
from server.domain.spending import Balance, Purse, month_of
from server.gateway.metering import Metered
from server.gateway.treasury import Treasury
from server.providers.opening import Tools, open_road
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics

MODEL = "gpt-image-2.6-flare"
MODELS = """
server: {{default_model: quick}}
models: {{quick: {{source: "fake:", family: fake}}}}
upstreams:
  openai: {{base_url: "{url}/v1", monthly_budget_usd: 1000, timeouts: {{attempt: 60, total: 240}}}}
  hasty: {{kind: openai, base_url: "{url}/v1", monthly_budget_usd: 1000, timeouts: {{attempt: 3, total: 60}}}}
  poor: {{kind: openai, base_url: "{url}/v1", monthly_budget_usd: 0.0001}}
"""
KEYS = {"OPENAI_API_KEY": "sk-test-secret"}
TEXT_USD, IMAGE_USD = 5 / 1e6, 196 * 30 / 1e6
"""A word that is read, and the double's one picture, by the shipped prices of tokens."""


def request(prompt="a cat", road="openai"):
    return ImageRequest("job", road, prompt, 1024, 1024, (1,), Sampling("euler", 4, 1.0))


class Books:
    """Roads that are metered as a server's are, and what is written down of them."""

    def __init__(self, folder, double):
        path = folder / "models.yaml"
        path.write_text(MODELS.format(url=double.url))
        self.clock, self.double = SystemClock(), double
        self.database = Database(beside(folder))
        self.ledger = SqlLedger(self.database, self.clock, lambda _crossing: b"")
        self.current = CurrentCatalog(path, environ=KEYS, clock=self.clock, log=silent())
        self.treasury = Treasury(self.ledger, self.current, clock=self.clock, metrics=Metrics(), log=silent())
        records = SqlUpstreamRequests(self.database, self.clock)
        tools = Tools(KEYS, records, self.clock, Metrics(), silent(), self._charged)
        self.roads = {name: open_road(upstream, tools) for name, upstream in self.current.catalog.upstreams.items()}

    def _charged(self, provider, upstream, succession):
        def asks(asked, call):
            return succession.meant(asked.model), call.wishes.quality

        return Metered(provider, upstream.name, self.treasury, self.clock, asks=asks)

    async def generate(self, asked):
        return await self.roads[asked.model].provider.generate(asked, Call("job", "acme", road=asked.model, durable=True))

    async def found(self, road="openai"):
        """The one line of the books, or None; how the upstream's purse stands; what the vendor saw."""
        await self.treasury.flush()
        rows = await self.ledger.used(0, 1 << 30)
        balances = await self.ledger.balances(month_of(self.clock.time()))
        assert len(rows) <= 1
        told = self.double.ledger
        purse = balances.get(Purse("", road), Balance(Purse("", road)))
        return SimpleNamespace(row=rows[0] if rows else None, purse=purse, attempts=told["attempts"], bill=told["charged"])


@pytest.fixture(scope="module")
def double(doubles):
    return doubles("openai")


@pytest.fixture
async def books(tmp_path, double):
    double.tell("reset")
    made = Books(tmp_path, double)
    await migrate(made.database)
    yield made
    for road in made.roads.values():
        await road.source.close()
    await made.treasury.flush()
    await made.database.close()


@pytest.mark.parametrize(("fault", "attempts"), [("", 1), (" [fault:500*1]", 2)])
async def test_one_picture_is_one_charge_by_its_tokens_however_often_it_was_asked_for(books, fault, attempts):
    words = len(f"a cat{fault}".split())
    made = await books.generate(request(f"a cat{fault}"))
    found = await books.found()
    usd = words * TEXT_USD + IMAGE_USD
    assert (found.attempts, found.bill) == (attempts, 1)
    assert made.usage.usd == pytest.approx(usd)
    row = found.row
    assert (row.tenant, row.road, row.model, row.requests, row.images) == ("acme", "openai", MODEL, 1, 1)
    assert (row.input_text_tokens, row.output_tokens) == (words, 196)
    assert (row.usd, row.unconfirmed_usd) == (pytest.approx(usd), 0.0)
    assert (found.purse.spent, found.purse.held) == (pytest.approx(usd), 0.0)


async def test_what_the_upstream_refuses_to_draw_is_not_charged(books):
    with pytest.raises(ModerationBlocked):
        await books.generate(request("a cat [fault:moderation]"))
    found = await books.found()
    assert (found.attempts, found.bill, found.row) == (1, 0, None)
    assert (found.purse.spent, found.purse.held) == (0.0, 0.0)


async def test_what_is_never_answered_is_charged_by_the_estimate_as_unconfirmed(books):
    asked = request("a cat [fault:hang]", "hasty")
    with pytest.raises(UpstreamAmbiguous):
        await books.generate(asked)
    found = await books.found("hasty")
    usd = estimate(books.current.catalog.prices.price("hasty", MODEL), asked, "auto").high
    assert (found.attempts, found.bill) == (1, 1)
    assert (found.row.requests, found.row.images) == (1, 0)
    assert 0 < found.row.usd == found.row.unconfirmed_usd == pytest.approx(usd)
    assert (found.purse.spent, found.purse.held) == (pytest.approx(usd), 0.0)
    with pytest.raises(UpstreamAmbiguous, match="not sent again"):
        await books.generate(asked)
    again = await books.found("hasty")
    assert (again.attempts, again.row, again.purse) == (found.attempts, found.row, found.purse), "neither sent nor charged"


async def test_a_budget_that_does_not_cover_it_sends_nothing(books):
    with pytest.raises(BudgetSpent):
        await books.generate(request(road="poor"))
    found = await books.found("poor")
    assert (found.attempts, found.row, found.purse.held) == (0, None, 0.0)
