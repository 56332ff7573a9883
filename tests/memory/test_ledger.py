"""The eviction plan, held to its promises over random ledgers."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.memory.ledger import Holding, Ledger, Plan, Tier

SHARED = {"clip": 3, "vae": 2}


def union(ledger, models, extra=None):
    parts = {part: size for model in models for part, size in ledger[model].components.items()}
    return sum((parts | (extra or {})).values())


@st.composite
def ledgers(draw):
    ledger = Ledger(draw(st.integers(5, 60)), draw(st.integers(0, 40)))
    for index in range(draw(st.integers(0, 7))):
        model = f"m{index}"
        parts = {f"unet-{index}": draw(st.integers(1, 20))}
        parts |= {name: SHARED[name] for name in draw(st.sets(st.sampled_from(sorted(SHARED))))}
        ledger.put(
            Holding(
                model,
                parts,
                pinned=draw(st.booleans()) and draw(st.booleans()),
                used=draw(st.floats(0, 100)),
                load_seconds=draw(st.floats(0, 10)),
                return_seconds=draw(st.none() | st.floats(0, 1)),
            )
        )
        for tier in draw(st.permutations(list(Tier))):
            ledger.move(model, tier)
            if ledger.device_bytes() <= ledger.device_budget and ledger.ram_bytes() <= ledger.ram_budget:
                break
    arriving = {"unet-new": draw(st.integers(1, 30))} | {n: SHARED[n] for n in draw(st.sets(st.sampled_from(sorted(SHARED))))}
    leased = draw(st.sets(st.sampled_from([f"m{i}" for i in range(7)])))
    return ledger, arriving, leased


def planned(ledger, arriving, leased, now=200.0):
    movable = [model for model in ledger.on(Tier.DEVICE) if model not in leased]
    return ledger.plan("new", arriving, movable=movable, now=now)


def carry_out(ledger, plan, arriving):
    for model in plan.park:
        ledger.move(model, Tier.RAM)
    for model in plan.drop:
        ledger.move(model, Tier.SOURCE)
    ledger.put(Holding("new", arriving, tier=Tier.DEVICE))


@settings(max_examples=120, deadline=None)
@given(ledgers())
def test_pinned_and_leased_models_stay_and_no_budget_is_exceeded(case):
    ledger, arriving, leased = case
    plan = planned(ledger, arriving, leased)
    if plan is None:
        staying = [m for m in ledger.on(Tier.DEVICE) if m in leased or ledger[m].pinned]
        assert union(ledger, staying, arriving) > ledger.device_budget, "it gave up although there was room to be made"
        return
    gone = set(plan.leaves(ledger))
    assert not gone & leased
    assert not any(ledger[model].pinned for model in gone)
    carry_out(ledger, plan, arriving)
    assert ledger.device_bytes() <= ledger.device_budget
    assert ledger.ram_bytes() <= ledger.ram_budget


@settings(max_examples=120, deadline=None)
@given(ledgers())
def test_nobody_leaves_who_could_have_stayed(case):
    ledger, arriving, leased = case
    plan = planned(ledger, arriving, leased)
    if plan is None:
        return
    gone = plan.leaves(ledger)
    for size in range(len(gone)):
        for fewer in itertools.combinations(gone, size):
            staying = [model for model in ledger.on(Tier.DEVICE) if model not in fewer]
            assert union(ledger, staying, arriving) > ledger.device_budget
    before = [model for model in plan.drop if ledger.tier(model) is not Tier.SOURCE]
    carry_out(ledger, plan, arriving)
    for model in before:
        ledger.move(model, Tier.RAM)
        assert ledger.ram_bytes() > ledger.ram_budget, f"{model} could have been kept in RAM"
        ledger.move(model, Tier.SOURCE)


@settings(max_examples=60, deadline=None)
@given(ledgers(), st.randoms())
def test_the_order_of_entries_changes_nothing(case, random):
    ledger, arriving, leased = case
    shuffled = Ledger(ledger.device_budget, ledger.ram_budget)
    models = [model for tier in Tier for model in ledger.on(tier)]
    random.shuffle(models)
    for model in models:
        shuffled.put(ledger[model])
    assert planned(shuffled, arriving, leased) == planned(ledger, arriving, leased)


def test_what_is_shared_is_counted_once_and_leaves_with_the_last():
    ledger = Ledger(100, 100)
    for name in ("a", "b"):
        ledger.put(Holding(name, {f"unet-{name}": 10, "clip": 5}, tier=Tier.DEVICE))
    assert ledger.device_bytes() == 25
    assert ledger.shared("a") == 5
    ledger.move("a", Tier.RAM)
    assert (ledger.device_bytes(), ledger.ram_bytes()) == (15, 10)
    ledger.move("b", Tier.RAM)
    assert (ledger.device_bytes(), ledger.ram_bytes()) == (0, 25)


def of_two(**second):
    ledger = Ledger(20, 0)
    ledger.put(Holding("a", {"a": 10}, tier=Tier.DEVICE, used=10.0, load_seconds=1.0))
    ledger.put(Holding("b", {"b": 10}, tier=Tier.DEVICE, **({"used": 10.0, "load_seconds": 1.0} | second)))
    return ledger.plan("c", {"c": 10}, movable=["a", "b"], now=20.0)


def test_the_least_recently_used_leaves_and_among_equals_the_cheapest_to_bring_back():
    assert of_two(used=15.0) == Plan(drop=("a",))
    assert of_two(used=5.0) == Plan(drop=("b",))
    assert of_two(load_seconds=5.0) == Plan(drop=("a",))
    assert of_two(load_seconds=0.2) == Plan(drop=("b",))
    assert of_two(used=5.0, load_seconds=30.0) == Plan(drop=("a",)), "thirty seconds of loading outweigh a little idleness"


def test_one_that_comes_back_from_ram_is_cheaper_than_one_that_must_be_loaded():
    ledger = Ledger(40, 10)
    ledger.put(Holding("small", {"small": 10}, tier=Tier.DEVICE, used=10.0, load_seconds=5.0))
    ledger.put(Holding("big", {"big": 30}, tier=Tier.DEVICE, used=10.0, load_seconds=5.0))
    assert ledger.plan("new", {"new": 10}, movable=["small", "big"], now=20.0) == Plan(park=("small",))


def test_ram_keeps_what_is_worth_most():
    ledger = Ledger(10, 10)
    ledger.put(Holding("old", {"old": 10}, tier=Tier.RAM, used=0.0, load_seconds=1.0))
    ledger.put(Holding("now", {"now": 10}, tier=Tier.DEVICE, used=10.0, load_seconds=1.0))
    assert ledger.plan("new", {"new": 10}, movable=["now"], now=20.0) == Plan(park=("now",), drop=("old",))


def test_no_device_budget_is_no_limit():
    ledger = Ledger(None)
    ledger.put(Holding("a", {"a": 10**15}, tier=Tier.DEVICE))
    assert ledger.plan("b", {"b": 10**15}, movable=["a"], now=1.0) == Plan()
