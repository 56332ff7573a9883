"""Who lies where, and who makes room: bytes, tiers, and an eviction plan. No torch, no clock.

A model is a set of components (network, VAE, text encoders). A component is where it is needed most: on the device if a model
there has it, else in RAM if a model kept there has it, else nowhere but at its source. What several models share is therefore
counted once, and leaves a tier with the last of them.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

BUS = 10e9
"""Bytes a second from RAM to a device, assumed until a model's own return has been measured (PCIe 4 x16: up to twice that)."""


class Tier(StrEnum):
    """Where a model is; all its components are at least there."""

    DEVICE = "device"
    RAM = "ram"
    SOURCE = "source"
    """Only at the place it is loaded from."""


class Holding(msgspec.Struct, frozen=True):
    """One model as the ledger knows it. Times are seconds of one clock."""

    model: str
    components: Mapping[str, int]
    """Bytes, measured, of each component by its identity: equal identities are one and the same component."""
    tier: Tier = Tier.SOURCE
    pinned: bool = False
    used: float = 0.0
    """When it was last worked with."""
    load_seconds: float = 0.0
    """What loading it from its source took, the last time."""
    return_seconds: float | None = None
    """What bringing it back from RAM took, the last time; None if that never happened."""


class Plan(msgspec.Struct, frozen=True):
    """Who leaves the device. Those kept in RAM displace others there."""

    park: tuple[str, ...] = ()
    """From the device to RAM, the least worth keeping first."""
    drop: tuple[str, ...] = ()
    """Let go of entirely, be it from the device or from RAM."""

    def leaves(self, ledger: "Ledger") -> tuple[str, ...]:
        """The models that were on the device."""
        return tuple(model for model in (*self.park, *self.drop) if ledger.tier(model) is Tier.DEVICE)


class Ledger:
    """Owns what is known of every model that has ever been loaded. A budget of None has no limit."""

    __slots__ = ("_holdings", "device_budget", "ram_budget")

    def __init__(self, device_budget: int | None = None, ram_budget: int = 0) -> None:
        """Both budgets in bytes."""
        self.device_budget = device_budget
        self.ram_budget = ram_budget
        self._holdings: dict[str, Holding] = {}

    def __contains__(self, model: str) -> bool:
        """Whether it has been measured."""
        return model in self._holdings

    def __getitem__(self, model: str) -> Holding:
        """What is known of a measured model."""
        return self._holdings[model]

    def put(self, holding: Holding) -> None:
        """Enter a model, or what has become of it."""
        self._holdings[holding.model] = holding

    def forget(self, model: str) -> None:
        """Cross it out; its next load is like the first."""
        self._holdings.pop(model, None)

    def move(self, model: str, tier: Tier) -> None:
        """Note where it is now."""
        self.put(msgspec.structs.replace(self._holdings[model], tier=tier))

    def touch(self, model: str, now: float) -> None:
        """Note that it was worked with."""
        held = self._holdings[model]
        self.put(msgspec.structs.replace(held, used=max(held.used, now)))

    def tier(self, model: str) -> Tier:
        """Where it is."""
        held = self._holdings.get(model)
        return Tier.SOURCE if held is None else held.tier

    def on(self, tier: Tier) -> tuple[str, ...]:
        """The models there, the least recently used first."""
        there = [held for held in self._holdings.values() if held.tier is tier]
        return tuple(held.model for held in sorted(there, key=lambda held: (held.used, held.model)))

    def device_bytes(self) -> int:
        """What lies on the device."""
        return sum(self._components(self.on(Tier.DEVICE)).values())

    def ram_bytes(self) -> int:
        """What lies in RAM and not on the device."""
        return self._ram_bytes(self.on(Tier.DEVICE), self.on(Tier.RAM))

    def shared(self, model: str) -> int:
        """Bytes of ``model`` that would stay on the device without it."""
        others = self._components(other for other in self.on(Tier.DEVICE) if other != model)
        return sum(size for part, size in self._holdings[model].components.items() if part in others)

    def immovable(self, model: str) -> int:
        """Bytes on the device that never make room for ``model``: pinned ones, less what it shares with them."""
        pinned = [held.model for held in self._holdings.values() if held.pinned and held.tier is Tier.DEVICE]
        own = self._holdings[model].components if model in self._holdings else {}
        there = self._components(other for other in pinned if other != model)
        return sum(size for part, size in there.items() if part not in own)

    def plan(self, arriving: str, components: Mapping[str, int], *, movable: Iterable[str], now: float) -> Plan | None:
        """Who leaves so that ``arriving`` fits with its ``components``, or None if even all of ``movable`` were not enough.

        Pinned models and ``arriving`` itself never leave the device, whatever ``movable`` says. The set of those who leave is
        minimal: none of them could stay. Who leaves first is who costs least: the seconds to bring it back, over the seconds it
        has not been used, which estimate how soon it will be wanted again.
        """
        there = self.on(Tier.DEVICE)
        candidates = sorted(
            (model for model in set(movable) & set(there) if not self._holdings[model].pinned and model != arriving),
            key=lambda model: (self._loss(model, now), self._holdings[model].used, model),
        )
        leaving: list[str] = []
        for model in candidates:
            if self._fits(there, leaving, components):
                break
            leaving.append(model)
        if not self._fits(there, leaving, components):
            return None
        # The last ones may have freed so much that an earlier, smaller one can stay: those most worth keeping are asked first.
        for model in reversed(tuple(leaving)):
            without = [other for other in leaving if other != model]
            if self._fits(there, without, components):
                leaving = without
        return self._settle_ram(there, leaving, arriving, components, now)

    def _settle_ram(
        self, there: Iterable[str], leaving: list[str], arriving: str, components: Mapping[str, int], now: float
    ) -> Plan:
        """Which of ``leaving`` are kept in RAM, and who must leave RAM for them.

        ``arriving`` has left RAM when that is done: for the moment in which two models trade places, RAM holds both.
        """
        staying = [model for model in there if model not in leaving]
        parked = [model for model in self.on(Tier.RAM) if model != arriving]

        def worth(model: str) -> tuple[float, float, str]:
            return (self._loss(model, now, from_ram=True), self._holdings[model].used, model)

        kept = sorted((*leaving, *parked), key=worth)
        dropped: list[str] = []
        while kept and self._ram_bytes(staying, kept, components) > self.ram_budget:
            dropped.append(kept.pop(0))
        for model in reversed(tuple(dropped)):  # a small one may still fit where a big one did not
            if self._ram_bytes(staying, [*kept, model], components) <= self.ram_budget:
                kept.append(model)
                dropped.remove(model)
        return Plan(park=tuple(model for model in leaving if model in kept), drop=tuple(dropped))

    def _fits(self, there: Iterable[str], leaving: list[str], arriving: Mapping[str, int]) -> bool:
        if self.device_budget is None:
            return True
        stays = self._components(model for model in there if model not in leaving)
        return sum((stays | dict(arriving)).values()) <= self.device_budget

    def _loss(self, model: str, now: float, *, from_ram: bool = False) -> float:
        """Expected seconds lost per second of its absence."""
        held = self._holdings[model]
        seconds = held.load_seconds
        if not from_ram and sum(held.components.values()) <= self.ram_budget:
            back = sum(held.components.values()) / BUS if held.return_seconds is None else held.return_seconds
            seconds = min(seconds, back)
        return seconds / max(now - held.used, 1e-3)

    def _ram_bytes(self, there: Iterable[str], parked: Iterable[str], arriving: Mapping[str, int] | None = None) -> int:
        on_device = self._components(there) | dict(arriving or {})
        return sum(size for part, size in self._components(parked).items() if part not in on_device)

    def _components(self, models: Iterable[str]) -> dict[str, int]:
        return {part: size for model in models for part, size in self._holdings[model].components.items()}
