"""Weights follow the books: what is on the device, in RAM and nowhere is what the ledger says."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.memory.ledger import Ledger, Plan, Tier
from pipelines.memory.residency import Residency


class Lump:
    """Weights that remember where they are."""

    def __init__(self, size, identity=None):
        self.bytes = size
        self.identity = identity
        self.place = "device"
        self.moves = 0
        self.breaks = False

    def to_device(self):
        if self.breaks:
            raise MemoryError
        assert self.place != "gone"
        self.moves += self.place != "device"
        self.place = "device"

    def to_ram(self):
        assert self.place != "gone"
        self.moves += self.place != "ram"
        self.place = "ram"

    def drop(self):
        assert self.place != "gone", "dropped twice"
        self.place = "gone"


def arrive(residency, model, plan=None, shared=()):
    """What a loader does: make room, bring what is in RAM or load the rest, close the books."""
    swap = residency.begin(model, plan or Plan())
    from_ram = residency.ledger.tier(model) is Tier.RAM
    swap.clear()
    swap.fetch()
    weights = None
    if not from_ram:
        weights = dict(shared) | {"unet": Lump(10)}
        for each in weights.values():
            each.to_device()
    residency.arrive(model, weights=weights, seconds=1.0, now=0.0)
    return swap


def test_a_model_goes_to_ram_and_comes_back_as_the_same_weights():
    residency = Residency(Ledger(10, 10))
    arrive(residency, "a")
    unet = residency.parts("a")["unet"]
    swap = arrive(residency, "b", Plan(park=("a",)))
    assert (swap.evicted, unet.place, residency.resident("a")) == (("a",), "ram", False)
    swap = arrive(residency, "a", Plan(drop=("b",)))
    assert swap.bring == (unet,)
    assert (unet.place, residency.resident("a"), residency.resident("b")) == ("device", True, False)
    assert residency.ledger["a"].return_seconds == 1.0
    assert residency.parts("b") == {}


def test_what_is_shared_stays_while_anybody_has_it():
    residency = Residency(Ledger(100, 100))
    clip = Lump(5, "clip")
    arrive(residency, "a", shared={"text_encoder": clip})
    arrive(residency, "b", shared={"text_encoder": clip})
    assert residency.ledger.device_bytes() == 25
    arrive(residency, "c", Plan(drop=("a",)))
    assert clip.place == "device"
    assert residency.parts("a") == {"text_encoder": clip}, "what is left of it need not be loaded again"
    arrive(residency, "d", Plan(park=("b",)))
    assert clip.place == "ram"
    for weights in residency.let_go("b"):
        weights.drop()
    assert clip.place == "gone"


def test_what_is_shared_is_known_again_after_it_was_gone():
    residency = Residency(Ledger(100, 0))
    arrive(residency, "a", shared={"text_encoder": Lump(5, "clip")})
    arrive(residency, "b", Plan(drop=("a",)), shared={"text_encoder": Lump(5, "clip")})
    assert residency.ledger.plan("a", residency.expected("a", 0), movable=["b"], now=1.0) == Plan()
    assert sum((residency.ledger["b"].components | residency.expected("a", 0)).values()) == 25


def test_a_return_that_fails_leaves_the_model_in_ram():
    residency = Residency(Ledger(100, 100))
    clip = Lump(5, "clip")
    arrive(residency, "a", shared={"text_encoder": clip})
    unet = residency.parts("a")["unet"]
    arrive(residency, "b", Plan(park=("a",)))
    unet.breaks = True
    swap = residency.begin("a", Plan())
    try:
        swap.fetch()
    except MemoryError:
        assert {clip.place, unet.place} == {"ram"}
    else:
        raise AssertionError("it should not fit")
    assert residency.ledger.tier("a") is Tier.RAM


steps = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=25)


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(16, 60), st.integers(0, 40))
def test_weights_are_where_the_books_say(plan, device, ram):
    residency = Residency(Ledger(device, ram))
    clip = Lump(2, "clip")
    for now, (index, shares) in enumerate(plan):
        model, size = f"m{index}", 4 + index * 2
        if residency.resident(model):
            residency.ledger.touch(model, now)
            continue
        back = residency.ledger.tier(model) is Tier.RAM
        expected = residency.expected(model, 0) if back else {"new": size, "shared": 2}
        made = residency.ledger.plan(model, expected, movable=residency.ledger.on(Tier.DEVICE), now=now)
        swap = residency.begin(model, made)
        swap.clear()
        swap.fetch()
        if shares and clip.place == "gone":
            clip = Lump(2, "clip")
        weights = None if back else {"unet": Lump(size)} | ({"text_encoder": clip} if shares else {})
        for each in (weights or {}).values():
            each.to_device()
        residency.arrive(model, weights=weights, seconds=1.0, now=now)
        assert residency.ledger.device_bytes() <= device
        assert residency.ledger.ram_bytes() <= ram
        for tier in (Tier.DEVICE, Tier.RAM):
            for other in residency.ledger.on(tier):
                there = {"device"} if tier is Tier.DEVICE else {"device", "ram"}
                assert {part.place for part in residency.parts(other).values()} <= there
        assert sum(part.bytes for _, part in residency.live()) == residency.ledger.device_bytes() + residency.ledger.ram_bytes()
