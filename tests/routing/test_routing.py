"""Which road, and which after it: the decision alone."""

from pathlib import Path

import msgspec
import pytest

from pipelines.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    OutOfMemory,
    Overloaded,
    RequestKillsWorker,
    ShuttingDown,
    WorkerLost,
)
from server.catalog.loading import parse
from server.catalog.positions import CatalogError
from server.catalog.routing import Routing
from server.domain.call import Call
from server.domain.failures import (
    BudgetSpent,
    ModerationBlocked,
    UpstreamAmbiguous,
    UpstreamMisconfigured,
    UpstreamUnavailable,
)
from server.domain.generation import AUTO, LOCAL
from server.domain.wishes import Wishes
from server.gateway.routing import Facts, Question, decide, may_follow
from server.gateway.text_intent import TextNeed

TEXT = TextNeed(needs_text=True, score=0.95, reasons=("“OPEN” is to be seen",), literals=("OPEN",))
VAGUE = TextNeed(needs_text=True, score=0.85, reasons=("'menu' is made to be read",))
PLAIN = TextNeed(needs_text=False, score=0.0, reasons=("nothing asks for writing",))
OPENAI = Facts("openai")


def plan(need=TEXT, *, road=AUTO, quality="auto", others=(OPENAI,), chain=None, reader=False, wait=0.0, **rules):
    call = Call("job", road=road, wishes=Wishes(quality=quality))
    local = Facts(LOCAL, wait_seconds=wait)
    return decide(Question(call, need, msgspec.convert(rules, Routing), local, tuple(others), chain, reader))


def order(found):
    return [step.label for step in found.steps]


def rules(**fields):
    return Routing(**fields)


@pytest.mark.parametrize(
    ("policy", "for_text", "for_plain"),
    [
        ("local_only", ["local"], ["local"]),
        ("prefer_local", ["local", "openai"], ["local", "openai"]),
        ("auto", ["openai", "local"], ["local", "openai"]),
        ("prefer_upstream", ["openai", "local"], ["openai", "local"]),
        ("verify", ["openai", "local"], ["local", "openai"]),  # no OCR here
    ],
)
def test_policies(policy, for_text, for_plain):
    assert order(plan(TEXT, policy=policy)) == for_text
    assert order(plan(PLAIN, policy=policy)) == for_plain


def test_the_reasons_say_what_decided():
    assert plan().reasons == ("the policy is auto", "needs legible text (0.95: “OPEN” is to be seen)")
    assert plan(others=()).reasons[0] == "no upstream is configured: everything is local"
    assert "draft" in plan(quality="low").reasons[0]
    assert plan(road=LOCAL).reasons == ("the model runs here",)


def test_a_draft_stays_even_when_local_fails():
    assert order(plan(quality="low")) == ["local"]
    assert order(plan(quality="low", policy="prefer_upstream")) == ["local"]
    assert order(plan(quality="low", drafts_local=False)) == ["openai", "local"]
    assert order(plan(quality="low", road="openai")) == ["openai"]  # named: meant


def test_what_an_upstream_lacks_keeps_a_request_here():
    found = plan(others=[Facts("openai", lacking=("loras", "seed"))])
    assert order(found) == ["local"]
    assert found.reasons[0] == "only our own workers can do all of it"
    assert found.reasons[-1] == "openai cannot: loras, seed"
    second = plan(others=[Facts("openai", lacking=("seed",)), Facts("stability")])
    assert order(second) == ["stability", "local"]


def test_what_a_key_may_not_use_is_passed_over():
    barred = Facts("openai", barred=True)
    alone = plan(others=[barred])
    assert (order(alone), alone.reasons[0]) == (["local"], "this key may use no upstream: everything is local")
    assert order(plan(others=[barred, Facts("stability")])) == ["stability", "local"]
    chained = plan(road=LOCAL, others=[barred], chain=("openai",), wait=90, overflow_seconds=60)
    assert (order(chained), chained.reasons[-1]) == (["local"], "openai is not for this key")


def test_verify_draws_here_first_where_it_can_be_read():
    found = plan(policy="verify", reader=True)
    assert (order(found), found.verify) == (["local", "openai"], True)
    vague = plan(VAGUE, policy="verify", reader=True)
    assert (order(vague), vague.verify) == (["openai", "local"], False)
    assert "OCR is not installed" in plan(policy="verify").reasons[-1]
    assert not plan(PLAIN, policy="verify", reader=True).verify


def test_overflow():
    assert order(plan(PLAIN, wait=90, overflow_seconds=60)) == ["openai", "local"]
    assert "queue of 90 s is longer than 60 s" in plan(PLAIN, wait=90, overflow_seconds=60).reasons[-1]
    assert order(plan(PLAIN, wait=30, overflow_seconds=60)) == ["local", "openai"]
    assert order(plan(PLAIN, wait=90)) == ["local", "openai"]
    assert order(plan(PLAIN, wait=90, overflow_seconds=60, policy="local_only")) == ["local"]
    # Who has too much to do is asked last, but is asked; a chain that says where stays as it is.
    busy = {"wait": 90, "overflow_seconds": 60, "others": [OPENAI, Facts("stability")]}
    assert order(plan(PLAIN, **busy)) == ["openai", "stability", "local"]
    assert order(plan(PLAIN, **busy, chain=("stability",))) == ["openai", "stability", "local"]
    assert order(plan(PLAIN, **busy, chain=())) == ["openai", "local"]
    assert order(plan(PLAIN, **busy, chain=("local", "stability"))) == ["openai", "local", "stability"]
    assert order(plan(TEXT, **busy, chain=())) == ["openai"], "it was not too busy: it was not wanted"
    # A model asked for by name only overflows where the operator's chain says so, and local is still the next best.
    assert order(plan(road=LOCAL, wait=90, overflow_seconds=60)) == ["local"]
    assert order(plan(road=LOCAL, wait=90, overflow_seconds=60, chain=("openai",))) == ["openai", "local"]


def test_chains():
    sdxl = Facts(LOCAL, "sdxl")
    both = [OPENAI, sdxl]
    assert order(plan(road=LOCAL)) == ["local"]
    assert order(plan(road="openai")) == ["openai"]
    assert order(plan(road="openai", others=both, chain=("local:sdxl", "local"))) == ["openai", "local:sdxl", "local"]
    assert order(plan(road=LOCAL, others=both, chain=("local:sdxl", "openai"))) == ["local", "local:sdxl", "openai"]
    assert order(plan(PLAIN, others=both, chain=())) == ["local"]
    assert order(plan(road=LOCAL, others=both, chain=("openai", "local:sdxl"), policy="local_only")) == ["local", "local:sdxl"]
    unfit = plan(road="openai", others=[OPENAI, Facts(LOCAL, "sdxl", lacking=("size",))], chain=("local:sdxl", "gone"))
    assert (order(unfit), unfit.reasons[-1]) == (["openai"], "local:sdxl cannot: size")


def test_local_only_refuses_an_upstream_by_name():
    with pytest.raises(InvalidRequest, match="allows our own models only") as caught:
        plan(road="openai", policy="local_only")
    assert caught.value.param == "model"


@pytest.mark.parametrize("error", [BudgetSpent, UpstreamUnavailable, UpstreamMisconfigured, Overloaded, OutOfMemory, WorkerLost])
def test_what_falls_over(error):
    assert may_follow(error("x"), OPENAI, rules())
    assert may_follow(error("x"), Facts(LOCAL), rules())


@pytest.mark.parametrize("error", [InvalidRequest, Cancelled, DeadlineExceeded, ShuttingDown, ModerationBlocked])
def test_what_does_not(error):
    assert not may_follow(error("x"), OPENAI, rules())
    assert not may_follow(error("x"), Facts(LOCAL), rules())


def test_moderation_ambiguity_and_killers_have_rules_of_their_own():
    assert may_follow(ModerationBlocked("x"), Facts(LOCAL), rules(moderation_fallback=True))
    unclear = UpstreamAmbiguous("x")
    assert [may_follow(unclear, step, rules()) for step in (Facts(LOCAL), OPENAI)] == [True, False]
    assert [may_follow(unclear, step, rules(ambiguous_fallback="any")) for step in (Facts(LOCAL), OPENAI)] == [True, True]
    assert not may_follow(unclear, Facts(LOCAL), rules(ambiguous_fallback="never"))
    assert [may_follow(RequestKillsWorker("x"), step, rules()) for step in (Facts(LOCAL, "b"), OPENAI)] == [False, True]


MODELS = """\
server: {default_model: a, fallback: [openai]}
models:
  a: {source: "fake:", family: fake, fallback: ["local:b", openai]}
  b: {source: "fake:", family: fake}
upstreams: {stability: {}}
tenants:
  default: {routing: {policy: prefer_local}}
  acme: {routing: {fallback: [stability], overflow_seconds: 30}}
"""


def catalog(text=MODELS):
    return parse(text, name="models.yaml", folder=Path("/etc/aquatint"))


def test_models_yaml():
    found = catalog()
    assert found.fallback("a") == ("local:b", "openai")
    assert found.fallback("b") == ("openai",)
    acme = found.policy("acme").routing
    assert (acme.policy, acme.fallback, acme.overflow_seconds) == ("prefer_local", ("stability",), 30)
    assert found.policy("else").routing.fallback is None
    assert catalog("server: {default_model: a}\nmodels: {a: {source: 'fake:', family: fake}}").fallback("a") is None


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("local:b", "local:c", "models.yaml:3: models.a.fallback.0: there is no model 'c'"),
        ("fallback: [openai]", "fallback: [nobody]", "models.yaml:1: server.fallback.0: there is no road 'nobody'"),
        ("[stability]", "['local:']", "tenants.acme.routing.fallback.0: there is no model ''"),
        ("prefer_local", "cheapest", "tenants.default.routing.policy"),
        ("overflow_seconds: 30", "overflow_seconds: 0", "overflow_seconds"),
        ("overflow_seconds: 30", "overflow: 3", "there is no such setting"),
        ("fallback: [stability]", "fallback: stability", "fallback"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(before, after, told):
    with pytest.raises(CatalogError) as caught:
        catalog(MODELS.replace(before, after, 1))
    assert told in str(caught.value)
