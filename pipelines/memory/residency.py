"""Carries plans out: weights move between device, RAM and nowhere.

Moving takes seconds, so it happens in two halves. `Residency.begin` changes the books at once, in the thread that owns them, and
returns what is to be done as a `Swap`. Whoever is given that, a thread beside the ticks, calls `Swap.clear` and `Swap.fetch`;
then `Residency.arrive` closes the books. Between the two nobody else may touch the weights that move: in the books those who
leave are no longer on the device, and only one swap is under way at a time.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from pipelines.memory.ledger import Holding, Ledger, Plan, Tier


class Weights(Protocol):
    """One component of a model, whatever it is made of."""

    @property
    def identity(self) -> str | None:
        """Equal for equal content, whenever it is loaded; None for what no other model can have."""
        ...

    @property
    def bytes(self) -> int:
        """What it takes up, measured."""
        ...

    def to_device(self) -> None:
        """Bring it to the device; nothing happens if it is there."""
        ...

    def to_ram(self) -> None:
        """Bring it to RAM; nothing happens if it is there."""
        ...

    def drop(self) -> None:
        """Let go of it: it will not be used again."""
        ...


class Swap(msgspec.Struct, frozen=True):
    """Who goes and what of it moves; the weights of the one who comes, if they are in RAM."""

    model: str
    plan: Plan
    evicted: tuple[str, ...]
    """Models that leave the device."""
    park: tuple[Weights, ...] = ()
    drop: tuple[Weights, ...] = ()
    bring: tuple[Weights, ...] = ()

    def clear(self) -> None:
        """Make room. Dropping comes first: it is quick, and RAM may be what parking needs."""
        for weights in self.drop:
            weights.drop()
        for weights in self.park:
            weights.to_ram()

    def fetch(self) -> None:
        """Bring the one who comes from RAM; what cannot be brought goes back."""
        try:
            for weights in self.bring:
                weights.to_device()
        except BaseException:
            for weights in self.bring:
                weights.to_ram()
            raise


class Residency:
    """Owns the weights of every model that is on the device or in RAM, and the ledger over them."""

    def __init__(self, ledger: Ledger) -> None:
        """Start with nothing loaded."""
        self.ledger = ledger
        self._parts: dict[str, dict[str, str]] = {}
        """Identities of each measured model's components, by their names in it."""
        self._weights: dict[str, Weights] = {}

    def resident(self, model: str) -> bool:
        """Whether it is on the device."""
        return self.ledger.tier(model) is Tier.DEVICE

    def parts(self, model: str) -> Mapping[str, Weights]:
        """What there is of ``model`` on the device or in RAM, by name: all of it, or what others share with it."""
        return {name: self._weights[part] for name, part in self._parts.get(model, {}).items() if part in self._weights}

    def live(self) -> tuple[tuple[str, Weights], ...]:
        """Everything on the device or in RAM, once each, with one of its names."""
        names = {part: name for parts in self._parts.values() for name, part in parts.items()}
        return tuple((names[part], weights) for part, weights in self._weights.items())

    def expected(self, model: str, guess: int) -> dict[str, int]:
        """The components that ``model`` will bring: as measured, or one of ``guess`` bytes before its first load."""
        return dict(self.ledger[model].components) if model in self.ledger else {f"{model} (unmeasured)": guess}

    def begin(self, model: str, plan: Plan) -> Swap:
        """Enter into the books that the plan is done; the weights are still to be moved."""
        evicted = plan.leaves(self.ledger)
        from_ram = self.ledger.tier(model) is Tier.RAM
        before = self._places()
        for other in plan.park:
            self.ledger.move(other, Tier.RAM)
        for other in plan.drop:
            self.ledger.move(other, Tier.SOURCE)
        if from_ram:
            self.ledger.move(model, Tier.DEVICE)
        after = self._places()
        if from_ram:
            self.ledger.move(model, Tier.RAM)
        return Swap(
            model,
            plan,
            evicted,
            park=tuple(self._weights[part] for part, tier in after.items() if (before[part], tier) == (Tier.DEVICE, Tier.RAM)),
            drop=tuple(self._weights.pop(part) for part in before if part not in after),
            bring=tuple(self._weights[part] for part, tier in after.items() if (before[part], tier) == (Tier.RAM, Tier.DEVICE)),
        )

    def arrive(
        self, model: str, *, weights: Mapping[str, Weights] | None, seconds: float, now: float, pinned: bool = False
    ) -> None:
        """Enter a model that is on the device now: loaded with ``weights``, or brought from RAM without any."""
        if weights is None:
            held = msgspec.structs.replace(self.ledger[model], return_seconds=seconds)
        else:
            known = {id(each): part for part, each in self._weights.items()}
            own: dict[str, str] = {}
            for name, each in weights.items():
                part = known.get(id(each))
                if part is None:
                    part = each.identity or f"{model}/{name}"
                    if part in self._weights:  # equal content, and yet loaded a second time
                        part = f"{model}/{name}"
                    known[id(each)] = part
                self._weights[part] = each
                own[name] = part
            self._parts[model] = own
            held = Holding(model, {part: self._weights[part].bytes for part in own.values()}, load_seconds=seconds)
        self.ledger.put(msgspec.structs.replace(held, tier=Tier.DEVICE, pinned=pinned, used=now))

    def let_go(self, model: str, *, forget: bool = True) -> tuple[Weights, ...]:
        """Cross ``model`` out of every tier; returns the weights that nobody else has, still to be dropped.

        With ``forget`` also its sizes and what it shares are forgotten: its next load is like the first.
        """
        if model in self.ledger:
            self.ledger.move(model, Tier.SOURCE)
        if forget:
            self.ledger.forget(model)
            self._parts.pop(model, None)
        places = self._places()
        return tuple(self._weights.pop(part) for part in list(self._weights) if part not in places)

    def pin(self, model: str, *, pinned: bool) -> None:
        """Have it stay on the device, or no longer."""
        if model in self.ledger:
            self.ledger.put(msgspec.structs.replace(self.ledger[model], pinned=pinned))

    def _places(self) -> dict[str, Tier]:
        """Where each component is needed most; those needed nowhere are missing."""
        places: dict[str, Tier] = {}
        for tier in (Tier.RAM, Tier.DEVICE):
            places |= {part: tier for model in self.ledger.on(tier) for part in self._parts[model].values()}
        return places


def drop_all(weights: Iterable[Weights]) -> None:
    """Let go of each."""
    for each in weights:
        each.drop()
