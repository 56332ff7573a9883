"""Every model of this worker: known, on its way, on the device, on its way out.

Rows of a model may begin only while it is open. Rows that have begun hold it (their lease): it leaves when the last is done. At
most one swap is under way at a time; it runs in the loader while the others' ticks go on.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from pipelines.contract.catalog import Defaults, Limits, ModelCard, ModelFacts
from pipelines.contract.errors import AquatintError, ModelLoadFailed, ModelTooLarge, OutOfMemory
from pipelines.contract.family import Family
from pipelines.contract.messages import Event, Memory, ModelFailed, ModelLoaded, ModelLoading, ModelUnloaded
from pipelines.engine.loader import Ended, Loader, Moved, Work
from pipelines.engine.row import Demand
from pipelines.engine.runner import DeviceFault, Loaded, LoadProgress, Runner, Shelf
from pipelines.memory.ledger import Plan, Tier
from pipelines.memory.residency import Residency, Swap, drop_all
from pipelines.memory.turnover import Tenant, Turnover, Wanted, displaceable, line, next_change, overdue


class Change(msgspec.Struct, frozen=True):
    """What `Models.advance` brought about."""

    events: tuple[Event, ...] = ()
    failed: Mapping[str, AquatintError] = {}
    """Models that did not arrive: what waits for them has no hope."""


@dataclass(slots=True)
class _Known:
    card: ModelCard
    facts: ModelFacts | None = None
    since: float = 0.0
    """When it got to the device."""
    arrival_seconds: float = 0.0
    wanted: float | None = None
    """Since when it has been wanted without being there."""
    ordered: bool = False
    """`LoadModel` waits for an answer."""
    leaving: bool = False
    """It is to go, or to be loaded anew, once what has begun is done."""
    answer: bool = False
    """`UnloadModel` waits for an answer."""
    successor: ModelCard | None = None
    """The card it is loaded from the next time."""
    expected: int | None = None
    """Bytes that its source promises; None before anybody asked."""


@dataclass(slots=True)
class _Arrival:
    model: str
    swap: Swap
    from_ram: bool
    retried: bool = False


class Models:
    """Owns cards, residency and swaps. Called only from the engine's thread."""

    def __init__(
        self,
        runner: Runner,
        residency: Residency,
        loader: Loader,
        turnover: Turnover = Turnover(),  # noqa: B008 - a frozen struct
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` is in seconds and never goes back."""
        self._runner, self._residency, self._loader, self._rule, self._clock = runner, residency, loader, turnover, clock
        self._ledger = residency.ledger
        self._known: dict[str, _Known] = {}
        self._arrival: _Arrival | None = None
        self._yielding: tuple[str, frozenset[str]] | None = None
        """Who is next, and who has stopped to begin rows for it."""

    def __contains__(self, model: str) -> bool:
        """Whether there is a card for it."""
        return model in self._known

    def family(self, model: str) -> Family:
        """The family that the card of ``model`` names."""
        return self._known[model].card.family

    def know(self, card: ModelCard, *, load: bool) -> list[Event]:
        """Take on ``card``, in place of one with the same id; with ``load`` its model is brought to the device now."""
        known = self._known.setdefault(card.id, _Known(card))
        if _same_weights(known.card, card):
            known.card, known.successor = card, None
            known.leaving = known.answer
            self._residency.pin(card.id, pinned=card.pin)
        else:
            known.successor, known.leaving, known.expected = card, True, None
        if load and known.facts is not None and not known.leaving and self._residency.resident(card.id):
            return [ModelLoaded(card.id, known.facts)]
        known.ordered |= load
        return []

    def adopt(self, card: ModelCard) -> None:
        """Take on a model that the runner has already, with modules of the caller's own. It is never moved nor counted."""
        self._known[card.id] = _Known(card)
        self._residency.arrive(card.id, weights={}, seconds=0.0, now=self._clock(), pinned=True)

    def unload(self, model: str) -> list[Event]:
        """Let go of ``model`` once the rows it has begun are done; nothing happens if there is no card for it."""
        known = self._known.get(model)
        if known is not None:
            known.leaving, known.answer, known.ordered = True, True, False
        return []

    def refusal(self, model: str) -> ModelTooLarge | None:
        """Why ``model`` can never be on this device; None if it can, or if its size is not known yet."""
        known, budget = self._known[model], self._ledger.device_budget
        if budget is None or self._residency.resident(model):
            return None
        measured = model in self._ledger and known.successor is None
        need = sum(self._ledger[model].components.values()) if measured else self._expected(known)
        pinned = self._ledger.immovable(model)
        if need + pinned <= budget:
            return None
        room = f"{_megabytes(budget)} for models" + (f", {_megabytes(pinned)} of it pinned" if pinned else "")
        return ModelTooLarge(f"Model {model!r} needs {_megabytes(need)}; this device has {room}.", param="model")

    def open(self, model: str) -> bool:
        """Whether rows of ``model`` may begin."""
        known = self._known.get(model)
        giving_way = self._yielding is not None and model in self._yielding[1]
        return known is not None and not known.leaving and not giving_way and self._residency.resident(model)

    @property
    def loading(self) -> bool:
        """Whether a swap is under way: it takes memory beside the ticks."""
        return self._arrival is not None

    def used(self, model: str) -> None:
        """A batch of ``model`` has run."""
        if model in self._ledger:
            self._ledger.touch(model, self._clock())

    def wait_seconds(self, demand: Mapping[str, Demand]) -> float | None:
        """How long until time alone may change something; None if only news can."""
        now = self._clock()
        wanted = self._wanted(demand, now)
        return next_change(self._tenants(demand), wanted, now, self._rule) if wanted and self._arrival is None else None

    def advance(self, demand: Mapping[str, Demand]) -> Change:
        """Collect what the loader has done, see off who leaves, and begin the next swap if there is reason for one."""
        events: list[Event] = []
        failed: dict[str, AquatintError] = {}
        self._collect(demand, events, failed)
        if self._arrival is None:
            for model, known in self._known.items():
                if known.leaving and not _begun(demand, model):
                    events += self._see_off(model, known)
            # Whoever has just failed takes its requests with it: they are no reason to try again.
            self._next({model: each for model, each in demand.items() if model not in failed}, events, failed)
            self._collect(demand, events, failed)
        return Change(tuple(events), failed)

    def _next(self, demand: Mapping[str, Demand], events: list[Event], failed: dict[str, AquatintError]) -> None:
        now = self._clock()
        self._yielding = None
        tenants = self._tenants(demand)
        for wanted in line(self._wanted(demand, now), now, self._rule):
            refusal = self.refusal(wanted.model)
            if refusal is not None:
                self._fail(wanted.model, refusal, events, failed)
                continue
            movable = displaceable(tenants, wanted, now, self._rule)
            idle = tuple(model for model in movable if not _begun(demand, model))
            components = self._residency.expected(wanted.model, self._expected(self._known[wanted.model]))
            plan = self._ledger.plan(wanted.model, components, movable=idle, now=now)
            if plan is not None:
                self._begin(wanted.model, plan, events)
                return
            plan = self._ledger.plan(wanted.model, components, movable=movable, now=now)
            if plan is not None:
                # They begin no more rows, and leave when those they have are done.
                self._yielding = (wanted.model, frozenset(plan.leaves(self._ledger)))
                return
            if wanted.ordered or overdue(wanted, now, self._rule):
                return  # nobody overtakes it any more

    def _begin(self, model: str, plan: Plan, events: list[Event], *, retried: bool = False) -> None:
        from_ram = self._ledger.tier(model) is Tier.RAM
        swap = self._residency.begin(model, plan)
        for other in swap.evicted:
            self._known[other].since = 0.0
            events.append(ModelUnloaded(other, evicted=True))
        for other in plan.park:
            self._runner.park(other)
        for other in plan.drop:
            self._runner.unload(other)
        if swap.evicted:
            events.append(self._memory())
        self._arrival = _Arrival(model, swap, from_ram, retried)
        self._loader.begin(self._work(model, swap, from_ram=from_ram))

    def _work(self, model: str, swap: Swap, *, from_ram: bool) -> Work:
        """What the loader does; it may run in another thread, so all it needs is fetched now."""
        runner, card = self._runner, self._known[model].card
        shelf = Shelf(self._residency.parts(model), self._residency.live())

        def work(progress: LoadProgress) -> Loaded | None:
            swap.clear()
            runner.free()
            if from_ram:
                progress("weights in RAM", 0.0)
                swap.fetch()
                return None
            return runner.load(card, shelf, progress)

        return work

    def _collect(self, demand: Mapping[str, Demand], events: list[Event], failed: dict[str, AquatintError]) -> None:
        for report in self._loader.poll():
            arrival = self._arrival
            if arrival is None:
                msg = "unreachable: only a swap under way reports"
                raise RuntimeError(msg)
            if isinstance(report, Moved):
                events.append(ModelLoading(arrival.model, report.part, report.fraction))
                continue
            self._arrival = None
            if report.error is None:
                self._arrive(arrival, report, events, failed)
            elif isinstance(report.error, (OutOfMemory, MemoryError)) and not arrival.retried:
                self._begin(arrival.model, self._all_out(arrival.model, demand), events, retried=True)
            elif isinstance(report.error, DeviceFault):
                raise report.error
            else:
                self._fail(arrival.model, self._verdict(arrival.model, report.error), events, failed)

    def _all_out(self, model: str, demand: Mapping[str, Demand]) -> Plan:
        """Memory ran out although the books said that it would do: whoever can make room for ``model`` does, RAM included."""
        there = [other for other in self._ledger.on(Tier.DEVICE) if not _begun(demand, other) and not self._ledger[other].pinned]
        return Plan(drop=(*there, *(other for other in self._ledger.on(Tier.RAM) if other != model)))

    def _arrive(self, arrival: _Arrival, report: Ended, events: list[Event], failed: dict[str, AquatintError]) -> None:
        known, now = self._known[arrival.model], self._clock()
        if isinstance(report.result, Loaded):
            loaded = report.result
            self._residency.arrive(arrival.model, weights=loaded.weights, seconds=report.seconds, now=now, pinned=known.card.pin)
            known.facts = loaded.facts
            budget = self._ledger.device_budget
            if budget is not None and self._ledger.device_bytes() > budget:
                # Its source promised less than it takes up. Now that it has been measured, it is planned for again.
                del loaded
                self._put_down(arrival.model, forget=False)
                refusal = self.refusal(arrival.model)
                if refusal is not None:
                    self._fail(arrival.model, refusal, events, failed)
                return
            self._runner.install(arrival.model, loaded)
        else:
            self._residency.arrive(arrival.model, weights=None, seconds=report.seconds, now=now, pinned=known.card.pin)
        if known.facts is not None:
            known.facts = msgspec.structs.replace(known.facts, load_seconds=report.seconds)
            events.append(ModelLoaded(arrival.model, known.facts))
        known.since, known.arrival_seconds, known.wanted, known.ordered = now, report.seconds, None, False
        events.append(self._memory())

    def _see_off(self, model: str, known: _Known) -> list[Event]:
        was = self._ledger.tier(model)
        self._put_down(model, forget=True)
        events: list[Event] = []
        if known.answer or was is Tier.DEVICE:
            events.append(ModelUnloaded(model, evicted=False))
        if was is not Tier.SOURCE:
            events.append(self._memory())
        known.card, known.successor = known.successor or known.card, None
        known.leaving, known.answer, known.expected, known.facts = False, False, None, None
        return events

    def _put_down(self, model: str, *, forget: bool) -> None:
        self._runner.unload(model)
        drop_all(self._residency.let_go(model, forget=forget))
        self._runner.free()

    def _fail(self, model: str, error: AquatintError, events: list[Event], failed: dict[str, AquatintError]) -> None:
        known = self._known[model]
        known.wanted, known.ordered = None, False
        failed[model] = error
        events.append(ModelFailed(model, error.report()))

    def _expected(self, known: _Known) -> int:
        if known.expected is None:
            # A source that cannot be read promises nothing; loading it will say why.
            with contextlib.suppress(AquatintError, OSError):
                known.expected = self._runner.expected(known.successor or known.card)
        return known.expected or 0

    def _verdict(self, model: str, error: BaseException) -> AquatintError:
        if isinstance(error, (OutOfMemory, MemoryError)):
            need = sum(self._residency.expected(model, self._expected(self._known[model])).values())
            needs = f"needs {_megabytes(need)}" if need else "needs more than there is"
            budget = self._ledger.device_budget
            left = "" if budget is None else f", {_megabytes(max(0, budget - self._ledger.device_bytes()))} were left for it"
            return ModelLoadFailed(f"Model {model!r} {needs}{left}; memory ran out while it was loaded, twice: {error}")
        if isinstance(error, AquatintError):
            return error
        return ModelLoadFailed(f"Model {model!r} cannot be loaded: {type(error).__name__}: {error}")

    def _wanted(self, demand: Mapping[str, Demand], now: float) -> list[Wanted]:
        """Models that are not on the device and should be; their waiting begins when they are seen here first."""
        found = []
        for model, known in self._known.items():
            asked = demand.get(model)
            if self._residency.resident(model) or known.leaving or not (known.ordered or asked):
                known.wanted = None
                continue
            known.wanted = now if known.wanted is None else known.wanted
            found.append(Wanted(model, asked.work if asked else 0, known.wanted, known.ordered))
        return found

    def _tenants(self, demand: Mapping[str, Demand]) -> list[Tenant]:
        return [
            Tenant(model, demand[model].work if model in demand else 0, known.since, known.arrival_seconds)
            for model, known in self._known.items()
            if self._residency.resident(model)
        ]

    def _memory(self) -> Memory:
        ledger = self._ledger
        return Memory(ledger.device_bytes(), ledger.device_budget or 0, ledger.ram_bytes(), ledger.on(Tier.DEVICE))


def _begun(demand: Mapping[str, Demand], model: str) -> bool:
    return model in demand and demand[model].begun > 0


def _same_weights(one: ModelCard, other: ModelCard) -> bool:
    """Whether both cards load the same: the rest of a card may change while its model stays."""

    def bare(card: ModelCard) -> ModelCard:
        given = {"defaults": Defaults(), "limits": Limits(), "qualities": {}, "preload": False, "pin": False}
        return msgspec.structs.replace(card, **given, owned_by="", description="")

    return bare(one) == bare(other)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
