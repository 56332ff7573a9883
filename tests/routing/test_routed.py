"""A plan carried out over fake roads: who was asked, what the answer says, which error the caller hears."""

from pathlib import Path

import msgspec
import pytest

from pipelines.contract.errors import InvalidRequest, Overloaded, WorkerLost
from pipelines.contract.request import ImageRequest, Sampling
from server.catalog.loading import parse
from server.domain.call import Call
from server.domain.failures import (
    BudgetSpent,
    ModerationBlocked,
    UpstreamAmbiguous,
    UpstreamMisconfigured,
    UpstreamUnavailable,
)
from server.domain.generation import AUTO, LOCAL, Route, Usage
from server.domain.wishes import Wishes
from server.gateway.routable import ProviderRoad
from server.gateway.routed import Routed
from server.providers.fake import FunctionProvider, flat
from server.telemetry.logs import silent
from server.telemetry.metrics import Metrics

MODELS = """\
server: {default_model: a}
models:
  a: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 8}}
  b: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 3, guidance: 2.0}, limits: {max_pixels: 4096}}
"""
SIGN = 'a neon sign that says "OPEN"'


class Lines:
    """A reader that has read already."""

    def __init__(self, *pages, available=True):
        self.pages, self.available = list(pages), available

    async def read(self, _picture):
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page


class World:
    def __init__(self, tenants="", failing=None, reader=None, lacking=(), without=()):
        self.asked = []
        self.failing = dict(failing or {})
        self.catalog = parse(MODELS + (f"tenants:\n{tenants}" if tenants else ""), name="models.yaml", folder=Path("/"))
        self.metrics = Metrics()
        names = [name for name in ("openai", "stability") if name not in without]
        self.upstreams = [ProviderRoad(name, self.provider(name), lambda _r, _c: tuple(lacking)) for name in names]
        self.routed = Routed(
            ProviderRoad(LOCAL, self.provider(LOCAL)),
            lambda: self.upstreams,
            lambda: self.catalog,
            reader=reader or Lines(available=False),
            metrics=self.metrics,
            log=silent(),
        )

    def provider(self, name):
        async def function(request, call):
            self.asked.append((name, request.model, request.sampling.steps, call.road))
            if name in self.failing:
                raise self.failing[name]
            inner = Route(LOCAL) if name == LOCAL else Route(name, f"{name}-model", request_ids=("req_1",))
            return msgspec.structs.replace(flat(request), route=inner, usage=Usage(usd=0.5, gpu_seconds=2.0))

        return FunctionProvider(function)

    async def run(self, prompt=SIGN, *, road=AUTO, model="a", tenant="t", seeds=(1,), size=64, **wishes):
        request = ImageRequest("job", model, prompt, size, size, seeds, Sampling("euler", 8, 7.0))
        cards = (self.catalog.cards[model],) if model in self.catalog.cards else ()
        return await self.routed.generate(request, Call("job", tenant, road=road, cards=cards, wishes=Wishes(**wishes)))

    @property
    def roads(self):
        return [name for name, *_ in self.asked]


async def test_text_goes_upstream_and_the_answer_says_why():
    world = World()
    made = await world.run()
    assert world.asked == [("openai", "a", 8, "openai")]
    assert (made.route.road, made.route.model, made.route.request_ids) == ("openai", "openai-model", ("req_1",))
    assert "“OPEN” is to be seen" in " ".join(made.route.reasons)
    assert made.route.tried == ()
    assert b'aquatint_routes_total{outcome="made",road="openai"} 1.0' in world.metrics.render()


async def test_the_rest_stays():
    world = World()
    made = await world.run("a fox in the snow")
    assert (world.asked, made.route.road, made.route.model) == ([("local", "a", 8, LOCAL)], LOCAL, "a")


@pytest.mark.parametrize(
    ("allowed", "road", "model", "failing", "roads"),
    [
        (("a", "auto"), AUTO, "a", (), ["local"]),
        (("a", "auto", "stability"), AUTO, "a", (), ["stability"]),
        (("a", "auto", "openai"), AUTO, "a", ("openai",), ["openai", "local"]),
        (("a",), LOCAL, "a", (LOCAL,), ["local"]),
        (("a", "b"), LOCAL, "a", (LOCAL,), ["local", "local"]),
        (("openai",), "openai", "openai", ("openai",), ["openai"]),
        (("openai/x",), "openai", "openai/x", (), ["openai"]),
    ],
)
async def test_a_key_limits_every_road(allowed, road, model, failing, roads):
    tenants = "  t: {routing: {fallback: [local, 'local:b', openai]}}\n" if road != AUTO else ""
    world = World(tenants, failing={name: WorkerLost("gone") for name in failing})
    try:
        await world.run(road=road, model=model, allowed=allowed)
    except WorkerLost:
        assert world.roads[-1] in failing
    assert world.roads == roads


async def test_without_upstreams_everything_is_local_and_says_so():
    made = await World(without=("openai", "stability")).run()
    assert made.route.road == LOCAL
    assert made.route.reasons[0] == "no upstream is configured: everything is local"


@pytest.mark.parametrize(
    "error", [BudgetSpent("spent"), UpstreamUnavailable("down"), UpstreamMisconfigured("key"), UpstreamAmbiguous("late")]
)
async def test_local_answers_when_an_upstream_cannot(error):
    world = World(failing={"openai": error}, without=("stability",))
    made = await world.run()
    assert (world.roads, made.route.road) == (["openai", "local"], LOCAL)
    assert [(each.road, each.code) for each in made.route.tried] == [("openai", error.code)]
    assert f"openai could not: {error.code}" in made.route.reasons


async def test_an_upstream_answers_when_local_cannot():
    world = World(failing={LOCAL: WorkerLost("gone")})
    made = await world.run("a fox")
    assert (world.roads, made.route.road) == (["local", "openai"], "openai")


async def test_what_may_have_been_charged_is_not_charged_again():
    world = World(failing={"openai": UpstreamAmbiguous("late"), LOCAL: WorkerLost("gone")})
    with pytest.raises(WorkerLost):
        await world.run()
    assert world.roads == ["openai", "local"]  # and not stability after it


async def test_a_wrong_request_is_wrong_everywhere():
    world = World(failing={"openai": InvalidRequest("no")})
    with pytest.raises(InvalidRequest):
        await world.run()
    assert world.roads == ["openai"]


async def test_a_refusal_falls_over_only_where_the_tenant_s_policy_allows():
    world = World("  lax: {routing: {moderation_fallback: true}}", failing={"openai": ModerationBlocked("no")})
    with pytest.raises(ModerationBlocked):
        await world.run()
    assert (await world.run(tenant="lax")).route.road == LOCAL


async def test_the_caller_hears_of_what_may_pass():
    world = World(failing={"openai": UpstreamMisconfigured("key"), "stability": BudgetSpent("b"), LOCAL: Overloaded("full")})
    with pytest.raises(Overloaded) as caught:
        await world.run()
    assert caught.value.__notes__ == ["another road: upstream_misconfigured: key", "another road: budget_spent: b"]


async def test_what_no_upstream_can_do_stays_whatever_it_says():
    world = World(lacking=("controls",))
    made = await world.run()
    assert made.route.road == LOCAL
    assert "openai cannot: controls" in made.route.reasons


CHAIN = "  t: {routing: {fallback: ['local:b', openai]}}"


async def test_another_model_of_ours_gets_its_own_usual_values():
    world = World(CHAIN, failing={LOCAL: WorkerLost("gone")})
    made = await world.run("a fox", road=LOCAL)
    assert world.asked == [("local", "a", 8, LOCAL), ("local", "b", 3, LOCAL), ("openai", "a", 8, "openai")]
    assert [each.road for each in made.route.tried] == ["local", "local:b"]


async def test_what_the_caller_said_is_kept_and_what_does_not_fit_is_passed_over():
    said = World(CHAIN, failing={LOCAL: WorkerLost("gone")})
    await said.run("a fox", road=LOCAL, said=("steps",))
    assert said.asked[1] == ("local", "b", 8, LOCAL)
    large = World(CHAIN, failing={LOCAL: WorkerLost("gone")})
    made = await large.run("a fox", road=LOCAL, size=128)
    assert large.roads == ["local", "openai"]
    assert "local:b cannot: size" in made.route.reasons


async def test_a_named_upstream_falls_to_the_default_model_where_a_chain_says_so():
    world = World("  t: {routing: {fallback: [local]}}", failing={"openai": UpstreamUnavailable("down")})
    made = await world.run("a fox", road="openai", model="openai/gpt-image-2")
    assert world.asked[1] == ("local", "a", 8, LOCAL)
    assert (made.route.road, made.route.model) == (LOCAL, "a")
    with pytest.raises(UpstreamUnavailable):
        await world.run("a fox", road="openai", model="openai/gpt-image-2", tenant="other")


async def test_an_upstream_that_is_gone():
    with pytest.raises(UpstreamMisconfigured, match="no upstream 'replicate'"):
        await World().run(road="replicate")


VERIFY = "  t: {routing: {policy: verify}}"


async def test_verify_pays_nobody_when_the_words_are_there():
    world = World(VERIFY, reader=Lines(("We are", "open"), ("OPEN",)))
    made = await world.run(seeds=(1, 2))
    assert (world.roads, made.route.road) == (["local"], LOCAL)
    assert "drawn here and read before anybody is paid" in made.route.reasons


async def test_verify_goes_upstream_when_they_are_not_and_counts_both():
    world = World(VERIFY, reader=Lines(("OPNE",)))
    made = await world.run()
    assert (world.roads, made.route.road) == (["local", "openai"], "openai")
    assert [(each.road, each.code) for each in made.route.tried] == [("local", "words_missing")]
    assert made.usage == Usage(usd=1.0, gpu_seconds=4.0)


async def test_verify_returns_the_first_picture_when_nobody_makes_a_better_one():
    failing = {"openai": BudgetSpent("spent"), "stability": UpstreamUnavailable("down")}
    world = World(VERIFY, reader=Lines(()), failing=failing)
    made = await world.run()
    assert (world.roads, made.route.road) == (["local", "openai", "stability"], LOCAL)
    assert [each.code for each in made.route.tried] == ["words_missing", "budget_spent", "upstream_unavailable"]
    assert "the first picture is returned" in made.route.reasons[-1]


async def test_a_reader_that_breaks_costs_nothing():
    made = await World(VERIFY, reader=Lines(RuntimeError("broken"))).run()
    assert made.route.road == LOCAL


async def test_the_words_of_a_card_s_negative_prompt_refuse_nothing():
    world = World()
    world.catalog = parse(
        MODELS.replace("steps: 8}", 'steps: 8, negative_prompt: "text, watermark"}'), name="m", folder=Path("/")
    )
    request = ImageRequest(
        "job", "a", "a movie poster", 64, 64, (1,), Sampling("euler", 8, 7.0), negative_prompt="text, watermark"
    )
    call = Call("job", road=AUTO, cards=(world.catalog.cards["a"],))
    assert world.routed.explain(request, call).need.needs_text
    own = msgspec.structs.replace(request, negative_prompt="letters")
    assert not world.routed.explain(own, call).need.needs_text
