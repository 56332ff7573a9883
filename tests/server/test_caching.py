"""The cache before the gateway, with the real runner and a database."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import EngineFailure
from pipelines.contract.family import Family
from pipelines.contract.messages import Progress
from pipelines.contract.request import ImageRequest, Sampling
from server.catalog.current import CurrentCatalog
from server.db.cache import SqlCache
from server.db.database import Database, beside
from server.db.jobs import SqlJobs
from server.db.migrating import migrate
from server.db.webhooks import Outbox
from server.domain.asset import Delivery, Format
from server.domain.caching import CacheResult, CacheUse
from server.domain.call import Call, ignore
from server.domain.clock import SetClock
from server.domain.failures import BudgetSpent
from server.domain.generation import AUTO, LOCAL, WORDS_MISSING, Attempt, Route, Usage
from server.domain.job import JobState, Order
from server.domain.ports.jobs import JobFilter
from server.domain.verdict import Action, Stage, Verdict
from server.gateway.caching import CacheBounds, Cached
from server.gateway.finish import Gateway
from server.gateway.identity import Identity
from server.gateway.weights import Weights
from server.jobs.admission import Admission
from server.jobs.service import JobService
from server.providers.fake import FunctionProvider, flat
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics
from tests.doubles.stores import stored_in

CARD = ModelCard("m", "fake:", Family.FAKE)
HIT, MISS, SHARED, OFF = CacheResult.HIT, CacheResult.MISS, CacheResult.SHARED, CacheResult.OFF


def order(name, *, prompt="p", seeds=(1,), use=CacheUse.EXACT, seeded=True, tenant="local", road="openai", **fields):
    request = ImageRequest(
        id=name, model="m", prompt=prompt, width=8, height=8, seeds=seeds, sampling=Sampling("euler", 4, 1.0), **fields
    )
    return Order(request, Delivery(Format.PNG), tenant, cards=(CARD,), road=road, cache=use, seeded=seeded)


class Provider:
    """Makes flat pictures for half a dollar each, at once or when its gate is opened."""

    def __init__(self):
        self.made, self.stopped, self.gate, self.error = [], [], asyncio.Event(), None
        self.tried, self.verdicts = (), ()
        self.gate.set()

    async def __call__(self, request, call):
        self.made.append(request.id)
        call.emit(Progress(request.id, 0, 1, 4))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.stopped.append(request.id)
            raise
        if self.error is not None:
            raise self.error
        route = Route("openai", "big", tried=self.tried)
        return replace(flat(request), usage=Usage(usd=0.5, gpu_seconds=2.0), route=route, verdicts=self.verdicts)


class Forgetful:
    """A store that loses ``lose`` pictures at the moment when they are to be given to somebody else, and has no more made."""

    def __init__(self, store, provider):
        self._store, self._provider, self.lose = store, provider, 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def again(self, asset, tenant, job_id):
        if self.lose:
            self.lose -= 1
            self._provider.gate.clear()
            await self._store.delete(tenant, [asset.name])
        return await self._store.again(asset, tenant, job_id)


async def nothing(_job):
    return b""


class Bench:
    """A job service over a cache over a provider; another one over the same folder is another server, later."""

    def __init__(self, folder, *, limit=64, shared=False, **bounds):
        self.clock, self.metrics, self.provider = SetClock(), Metrics(), Provider()
        self.charged = []
        self.database = Database(beside(folder))
        self.store = stored_in(folder / "outputs", self.database, self.clock)
        self.forgetful = Forgetful(self.store, self.provider)
        self.table = SqlCache(self.database)
        self.cache = Cached(
            Gateway(FunctionProvider(self.provider), self.store, self.metrics),
            Identity(CurrentCatalog(None, clock=self.clock, log=silent()), Weights(self.clock), shared=shared, engine="1.0"),
            self.table,
            self.forgetful,
            bounds=CacheBounds(**bounds),
            clock=self.clock,
            metrics=self.metrics,
            log=silent(),
            charged=lambda call, *what: self.charged.append((call.id, *what)),
        )
        self.jobs = JobService(
            self.cache,
            SqlJobs(self.database, self.clock, Outbox(nothing)),
            Admission(limit, self.metrics),
            clock=self.clock,
            metrics=self.metrics,
            log=silent(),
            recall=self.cache.recall,
        )

    @asynccontextmanager
    async def running(self):
        await migrate(self.database)
        async with self.cache.running(), self.jobs.running() as jobs:
            yield jobs

    async def do(self, asked):
        return await self.jobs.wait(await self.jobs.submit(asked))

    async def led(self, asked, emit=ignore):
        """The job of a request that is being made: those like it follow."""
        job = await self.jobs.submit(asked, emit)
        await until(lambda: asked.request.id in self.provider.made)
        return job

    async def durable(self, asked):
        await self.jobs.enqueue(asked)
        async for moment in self.jobs.follow(asked.request.id):
            if moment is not None and moment.kind == "finished":
                break
        return await self.jobs.get(asked.request.id)

    def counted(self, result):
        return self.metrics._registry.get_sample_value("aquatint_cache_requests_total", {"result": result.value})


@pytest.fixture
async def bench(tmp_path):
    made = []

    def make(**options):
        made.append(Bench(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        await each.database.close()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - anything may make it true
            await asyncio.sleep(0)


async def test_the_same_request_again_gets_the_same_picture_as_its_own(bench):
    own = bench()
    async with own.running():
        first, second = await own.do(order("a", seeds=(1, 2))), await own.do(order("b", seeds=(1, 2)))
    assert (first.cache, second.cache, own.provider.made) == (MISS, HIT, ["a"])
    assert second.state is JobState.SUCCEEDED
    for one, two in zip(first.assets, second.assets, strict=True):
        assert (one.seed, one.size) == (two.seed, two.size)
        assert one.name != two.name
        assert await own.store.get(one.name) == await own.store.get(two.name)
    assert (second.stats.evaluations, second.usage, second.route) == (0, Usage(), Route("openai", "big"))
    assert (own.counted(HIT), own.counted(MISS)) == (1, 1)


async def test_it_outlives_the_server_and_answers_queued_jobs_too(bench):
    before = bench()
    async with before.running():
        assert (await before.durable(order("a"))).cache is MISS
    own = bench(cost=0.25)
    async with own.running():
        assert (await own.durable(order("b"))).cache is HIT
        job = await own.do(order("c"))
    assert (job.cache, job.usage, own.provider.made) == (HIT, Usage(usd=0.125), [])
    assert own.charged == [(name, "big", 1, Usage(usd=0.125)) for name in "bc"]
    assert before.charged == []


@pytest.mark.parametrize(
    "other",
    [{"prompt": "q"}, {"seeds": (2,)}, {"seeds": (1, 1)}, {"tenant": "other"}, {"use": CacheUse.OFF}, {"seeded": False}],
    ids=str,
)
async def test_another_request_gets_another_picture(bench, other):
    own = bench()
    async with own.running():
        await own.do(order("a"))
        job = await own.do(order("b", **other))
    assert job.cache in (MISS, OFF)
    assert own.provider.made == ["a", "b"]


async def test_any_seed_will_do_where_the_caller_says_so(bench):
    own = bench()
    async with own.running():
        await own.do(order("a", seeds=(1,)))
        await own.do(order("b", seeds=(2,)))
        drawn = await own.do(order("c", seeds=(7,), use=CacheUse.ANY, seeded=False))
        asked = await own.do(order("d", seeds=(1,), use=CacheUse.ANY))
        two = await own.do(order("e", seeds=(1, 2), use=CacheUse.ANY, seeded=False))
        again = await own.do(order("f", seeds=(8, 9), use=CacheUse.ANY, seeded=False))
    assert [(job.cache, job.assets[0].seed) for job in (drawn, asked, two, again)] == [(HIT, 2), (HIT, 1), (MISS, 1), (HIT, 1)]


async def test_tenants_share_by_setting_only(bench):
    own = bench(shared=True)
    async with own.running():
        await own.do(order("a"))
        job = await own.do(order("b", tenant="other"))
    assert job.cache is HIT


async def test_one_tenants_budget_is_no_other_tenants_answer(bench):
    own = bench(shared=True)
    async with own.running() as jobs:
        own.provider.gate.clear()
        waiting = [await own.led(order("a")), await own.led(order("b", tenant="other"))]
        own.provider.error = BudgetSpent("your budget is spent")
        own.provider.gate.set()
        assert [(await jobs.wait(job)).error.code for job in waiting] == ["budget_spent"] * 2
    assert own.provider.made == ["a", "b"], "each has its own budget asked"


NOT_SEEN = Verdict(Stage.OUTPUT, Action.SKIPPED, "nudenet", image=0)
FLAGGED = Verdict(Stage.PROMPT, Action.FLAG, "lists", ("violence",))
BLIND = Attempt("local", WORDS_MISSING, "OCR does not find “CAT” in the picture.")


@pytest.mark.parametrize(
    ("made", "kept"),
    [
        ({}, True),
        ({"road": AUTO}, True),
        ({"road": LOCAL}, False),
        ({"tried": (Attempt("better", BudgetSpent.code, "spent"),)}, False),
        ({"road": AUTO, "tried": (Attempt("better", "upstream_unavailable", "down"),)}, False),
        ({"road": AUTO, "tried": (BLIND,)}, True),
        ({"road": AUTO, "tried": (replace(BLIND, road="openai"),)}, False),
        ({"road": AUTO, "tried": (BLIND, Attempt("better", "upstream_unavailable", "down"))}, False),
        ({"verdicts": (FLAGGED,)}, True),
        ({"verdicts": (FLAGGED, NOT_SEEN)}, False),
    ],
    ids=["wanted", "auto", "overflown", "poor", "away", "read", "unreadable", "read and away", "flagged", "skipped"],
)
async def test_what_is_not_what_it_should_be_is_not_kept(bench, made, kept):
    own, road = bench(), made.get("road", "openai")
    async with own.running():
        own.provider.tried, own.provider.verdicts = made.get("tried", ()), made.get("verdicts", ())
        assert (await own.do(order("a", road=road))).cache is MISS
        own.provider.tried, own.provider.verdicts = (), ()
        assert (await own.do(order("b", road=road))).cache is (HIT if kept else MISS)


async def test_what_is_too_old_answers_nothing(bench):
    own = bench(seconds=100.0)
    async with own.running():
        await own.do(order("a"))
        own.clock.advance(101)
        assert (await own.do(order("b"))).cache is MISS
        own.clock.advance(99)
        assert (await own.do(order("c"))).cache is HIT


async def test_a_budget_pushes_out_what_was_not_used_for_longest(bench):
    own = bench()
    async with own.running():
        size = (await own.do(order("a"))).assets[0].size
    tight = bench(bytes=3 * size + size // 2)
    async with tight.running():
        for name in ("b", "c"):
            tight.clock.advance(1)
            await tight.do(order(name, prompt=name))
        tight.clock.advance(1)
        assert (await tight.do(order("again"))).cache is HIT
        await tight.cache._note()
        tight.clock.advance(1)
        await tight.do(order("d", prompt="d"))
        found = [(await tight.do(order(f"{prompt}2", prompt=prompt))).cache for prompt in ("p", "c", "d", "b")]
    assert found == [HIT, HIT, HIT, MISS]


async def test_a_file_that_is_gone_is_a_miss_and_the_entry_goes(bench):
    own = bench()
    async with own.running():
        first = await own.do(order("a"))
        await own.store.delete("local", [first.assets[0].name])
        second = await own.do(order("b"))
        assert second.cache is MISS
        await own.store.delete("local", [second.assets[0].name])
        own.cache._recent.clear()
        assert await own.cache.recall(order("c").request, Delivery(), asking("c")) is None
    assert (await own.table.trim(0.0, 1 << 30, 100)).entries == 0


async def test_a_newer_picture_of_another_server_survives_the_loss_of_an_older_one(bench):
    old, new = bench(), bench()
    async with old.running(), new.running():
        first = await old.do(order("a"))
        await old.store.delete("local", [first.assets[0].name])
        new.clock.advance(5)
        # Loses the old entry, and makes another.
        assert (await new.do(order("b"))).cache is MISS
        # Still remembers the old one, and finds the other in its place.
        assert (await old.do(order("c"))).cache is HIT
        assert (await new.do(order("d"))).cache is HIT
    assert (old.provider.made, new.provider.made) == (["a"], ["b"])


async def test_who_shares_a_picture_that_is_gone_gets_another(bench):
    own = bench()
    async with own.running() as jobs:
        own.provider.gate.clear()
        own.forgetful.lose = 1
        waiting = [await own.led(order("a"))] + [await jobs.submit(order(name)) for name in "bcd"]
        await until(lambda: sum(len(each.members) for each in own.cache._flights._flights.values()) == 4)
        own.provider.gate.set()
        await until(lambda: sum(len(each.members) for each in own.cache._flights._flights.values()) == 3)
        await until(lambda: len(own.provider.made) == 2)
        own.provider.gate.set()
        ended = [await jobs.wait(job) for job in waiting]
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 4
    assert len(own.provider.made) == 2, "one of the followers has made it for all of them"
    assert sorted(job.cache for job in ended) == sorted([MISS, MISS, SHARED, SHARED])
    for job in ended[1:]:
        assert await own.store.get(job.assets[0].name)


def asking(name):
    return Call(name, cards=(CARD,), road="openai", cache=CacheUse.EXACT, seeded=True)


async def test_switched_off_it_knows_nothing(bench):
    own = bench(bytes=0)
    async with own.running():
        jobs = [await own.do(order(name)) for name in "ab"]
    assert [job.cache for job in jobs] == [OFF, OFF]


async def test_a_table_that_fails_costs_pictures_not_requests(bench):
    own = bench()
    async with own.running():
        async with own.database.writing() as connection:
            await connection.exec_driver_sql("DROP TABLE cache")
        assert (await own.do(order("a"))).state is JobState.SUCCEEDED
        assert (await own.do(order("b"))).cache is HIT  # remembered in memory


async def test_a_hit_needs_no_place_in_the_queue_and_is_a_job_like_others(bench):
    own = bench(limit=1)
    async with own.running() as jobs:
        await own.do(order("a"))
        own.provider.gate.clear()
        busy = await jobs.submit(order("busy", prompt="q"))
        hit = await jobs.submit(order("b"))
        assert hit.state is JobState.SUCCEEDED
        assert (await jobs.get("b")).assets == hit.assets
        assert {job.id for job in (await jobs.page(JobFilter("local"), None, 10)).jobs} == {"a", "b", "busy"}
        assert (await jobs.revoke("b")).state is JobState.SUCCEEDED
        assert await jobs.delete("b")
        assert await jobs.get("b") is None
        own.provider.gate.set()
        await jobs.wait(busy)


async def test_many_hits_are_all_written_down(bench):
    own = bench()
    async with own.running() as jobs:
        await own.do(order("a"))
        await asyncio.gather(*(own.do(order(f"b{index}")) for index in range(300)))
        await jobs.revoke("b1")
    later = bench()
    async with later.running() as jobs:
        page = await jobs.page(JobFilter("local"), None, 400)
    assert len(page.jobs) == 301


async def test_equal_requests_at_once_are_made_once(bench):
    own = bench(cost=0.1)
    told = {name: [] for name in "abcdefgh"}
    async with own.running() as jobs:
        own.provider.gate.clear()
        waiting = [await own.led(order("a"), told["a"].append)]
        waiting += [await jobs.submit(order(name), told[name].append) for name in told if name != "a"]
        queued = asyncio.create_task(own.durable(order("queued")))
        await until(lambda: sum(len(each.members) for each in own.cache._flights._flights.values()) == 9)
        jobs.cancel("c")
        own.provider.gate.set()
        ended = [await jobs.wait(job) for job in waiting]
        assert (await queued).cache is SHARED
    assert own.provider.made == ["a"]
    assert [job.cache for job in ended if job.id != "c"] == [MISS] + [SHARED] * 6
    assert ended[2].state is JobState.CANCELLED
    done = [job for job in ended if job.id != "c"]
    assert len({job.assets[0].name for job in done}) == 7
    assert len({await own.store.get(job.assets[0].name) for job in done}) == 1
    assert [job.stats.evaluations for job in done] == [4] + [0] * 6
    assert [job.usage for job in done] == [Usage(usd=0.5, gpu_seconds=2.0)] + [Usage(usd=0.05)] * 6
    assert sorted(name for name, *_ in own.charged) == sorted(["queued", *(job.id for job in done if job.id != "a")])
    assert all(events[0].id == name for name, events in told.items() if events)


async def test_a_leader_that_leaves_leaves_the_work_and_the_bill(bench):
    own = bench()
    async with own.running() as jobs:
        own.provider.gate.clear()
        waiting = [await own.led(order("a")), await jobs.submit(order("b"))]
        await until(lambda: sum(len(each.members) for each in own.cache._flights._flights.values()) == 2)
        jobs.cancel("a")
        assert (await jobs.wait(waiting[0])).state is JobState.CANCELLED
        own.provider.gate.set()
        job = await jobs.wait(waiting[1])
    assert (job.cache, job.usage.usd, job.stats.evaluations, own.provider.stopped) == (SHARED, 0.5, 4, [])


async def test_the_last_to_leave_stops_the_work(bench):
    own = bench()
    async with own.running() as jobs:
        own.provider.gate.clear()
        waiting = [await own.led(order("a")), await jobs.submit(order("b"))]
        await until(lambda: own.provider.made and sum(len(each.members) for each in own.cache._flights._flights.values()) == 2)
        for job in waiting:
            jobs.cancel(job.id)
        assert [(await jobs.wait(job)).state for job in waiting] == [JobState.CANCELLED] * 2
    assert own.provider.stopped == ["a"]


async def test_an_error_is_told_to_all_and_not_kept(bench):
    own = bench()
    async with own.running() as jobs:
        own.provider.gate.clear()
        own.provider.error = EngineFailure("broken")
        waiting = [await own.led(order("a")), await jobs.submit(order("b"))]
        await until(lambda: sum(len(each.members) for each in own.cache._flights._flights.values()) == 2)
        own.provider.gate.set()
        assert [(await jobs.wait(job)).error.message for job in waiting] == ["broken"] * 2
        own.provider.error = None
        assert (await own.do(order("c"))).cache is MISS


async def test_drawn_seeds_are_never_merged(bench):
    own = bench()
    async with own.running() as jobs:
        own.provider.gate.clear()
        waiting = [await jobs.submit(order(name, use=CacheUse.ANY, seeded=False)) for name in "ab"]
        await until(lambda: sorted(own.provider.made) == ["a", "b"])
        own.provider.gate.set()
        assert [(await jobs.wait(job)).cache for job in waiting] == [MISS, MISS]


async def test_a_server_that_shuts_down_ends_shared_work_too(bench):
    own = bench()
    async with own.running() as jobs:
        own.provider.gate.clear()
        waiting = [await own.led(order("a")), await jobs.submit(order("b"))]
        jobs.cut_off()
        assert [(await jobs.wait(job)).error.code for job in waiting] == ["shutting_down"] * 2
    assert own.provider.stopped == ["a"]
