"""Every adapter of this worker: brought to the device for the rows that use it, kept for later ones while there is room.

A row begins once its model and all its adapters are there, and holds them to its end. Adapters are opened beside the ticks, one
after the other. What is kept is bounded in bytes: the least recently used that no row holds goes first. A LoRA goes with the
model that it is bound to.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import msgspec

from pipelines.contract.adapters import AdapterCard, ControlCard, LoraCard, ReferenceCard, UpscalerCard
from pipelines.contract.errors import AquatintError, ModelLoadFailed, ModelTooLarge, OutOfMemory
from pipelines.contract.messages import AdapterMemory, Event
from pipelines.engine.loader import Ended, Loader
from pipelines.engine.row import Row, RowId
from pipelines.engine.runner import AdapterKey, DeviceFault, LoadProgress, OpenAdapter, Runner

_AT_ONCE = 4
"""Adapters opened in one go: those that have arrived count against the budget only once they have been collected."""


class Change(msgspec.Struct, frozen=True):
    """What `Adapters.advance` brought about."""

    events: tuple[Event, ...] = ()
    held: AbstractSet[RowId] = frozenset()
    """Rows that must not begin yet."""
    failed: Mapping[str, AquatintError] = {}
    """Requests whose adapters cannot be had."""


class _Need(msgspec.Struct, frozen=True):
    key: AdapterKey
    card: AdapterCard
    model: str


class _Opened(msgspec.Struct, frozen=True):
    """What has become of one need."""

    need: _Need
    adapter: OpenAdapter | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Arrival:
    """Adapters on their way, one after the other."""

    retried: bool
    """There was no memory for it the first time."""
    done: deque[_Opened] = field(default_factory=deque)
    """Filled by the loader, emptied by the engine."""
    again: _Need | None = None
    """It found no memory."""
    gone: set[str] = field(default_factory=set)
    """Models that have left meanwhile."""


class Adapters:
    """Owns what is known of adapters. Called only from the engine's thread."""

    def __init__(self, runner: Runner, loader: Loader, budget: int | None = None) -> None:
        """Keep at most ``budget`` bytes (None for no limit); ``loader`` is nobody else's."""
        self._runner, self._loader, self._budget = runner, loader, budget
        self._here: OrderedDict[AdapterKey, int] = OrderedDict()
        """Bytes of those on the device, the least recently used first."""
        self._names: dict[AdapterKey, str] = {}
        self._sizes: dict[AdapterKey, int] = {}
        """Bytes of all that have been opened; those bound to a model until it leaves."""
        self._bound: dict[AdapterKey, str] = {}
        """The models of those that are bound to one."""
        self._needs: dict[RowId, tuple[_Need, ...]] = {}
        self._arrival: _Arrival | None = None

    @property
    def loading(self) -> bool:
        """Whether one is on its way: it takes memory beside the ticks."""
        return self._arrival is not None

    def forget(self, model: str) -> None:
        """``model`` has left the device: what is bound to it goes too, and what is on its way to it is not taken in."""
        for key in [key for key, bound in self._bound.items() if bound == model]:
            if key in self._here:
                self._let_go(key)
            del self._bound[key]
            self._sizes.pop(key, None)
        # Whatever waits for it is made fit for what it is loaded as the next time.
        self._needs = {row: own for row, own in self._needs.items() if all(need.model != model for need in own)}
        if self._arrival is not None:
            self._arrival.gone.add(model)

    def advance(self, rows: Iterable[Row], ready: Callable[[str], bool]) -> Change:
        """Collect what has arrived, make room, send for the next; ``ready`` says whether a model's rows may begin."""
        waiting, held = self._sort(rows, ready)
        failed: dict[str, AquatintError] = {}
        before = tuple(self._here)
        self._collect(waiting, held, failed)
        while True:
            lacking = self._hopeful(waiting, failed)
            self._next(lacking, self._spoken_for(waiting, held, lacking))
            if not self._collect(waiting, held, failed):  # a loader that does its work at once is done by now
                break
        for key in [key for key in self._here if key in held]:
            self._here.move_to_end(key)
        changed = tuple(self._here) != before and set(self._here) != set(before)
        return Change(
            (self._memory(),) if changed else (),
            frozenset(row.id for row in waiting if self._missing(row)),
            failed,
        )

    def _sort(self, rows: Iterable[Row], ready: Callable[[str], bool]) -> tuple[list[Row], set[AdapterKey]]:
        """Rows that may begin as far as their model goes, the most urgent first; and what those that have begun hold."""
        waiting: list[Row] = []
        held: set[AdapterKey] = set()
        needs: dict[RowId, tuple[_Need, ...]] = {}
        for row in rows:
            begun = row.begun
            if not begun and not row.modelless and not ready(row.key.model):
                continue  # what fits it may change with the model
            own = self._needs.get(row.id)
            if own is None:
                model = row.key.model
                own = tuple(_Need(self._runner.adapter_key(model, card), card, model) for card in row.adapters)
            needs[row.id] = own
            if begun:
                held.update(need.key for need in own)
            elif own:
                waiting.append(row)
        self._needs = needs
        return sorted(waiting, key=lambda row: row.urgency), held & self._here.keys()

    def _missing(self, row: Row) -> list[_Need]:
        return [need for need in self._needs.get(row.id, ()) if need.key not in self._here]

    def _hopeful(self, waiting: list[Row], failed: dict[str, AquatintError]) -> list[Row]:
        """Those that still lack something; who wants more than there is room for has no hope."""
        lacking = [row for row in waiting if row.request.id not in failed and self._missing(row)]
        for row in lacking:
            own = {need.key: need for need in self._needs[row.id]}
            size = sum(self._sizes.get(key, 0) for key in own)
            if self._budget is not None and size > self._budget:
                failed[row.request.id] = _too_large([need.card for need in own.values()], size, self._budget)
        return [row for row in lacking if row.request.id not in failed]

    def _spoken_for(self, waiting: list[Row], held: set[AdapterKey], lacking: list[Row]) -> set[AdapterKey]:
        """What must stay: held by rows that have begun, by those that can begin now, and by the first that cannot yet."""
        firm = [row for row in waiting if not self._missing(row)] + lacking[:1]
        return held | {need.key for row in firm for need in self._needs[row.id]}

    def _next(self, lacking: list[Row], stay: set[AdapterKey]) -> None:
        """Send for what rows lack, the most urgent's first; for none that could not have all of its own at once."""
        if self._arrival is not None:
            return
        planned: dict[AdapterKey, _Need] = {}
        size = 0
        for row in lacking:
            missing = {need.key: need for need in self._missing(row) if need.key not in planned}
            more = sum(self._sizes.get(key, 0) for key in missing)
            own = stay | {need.key for need in self._needs[row.id]}
            if len(planned) < _AT_ONCE and self._make_room(size + more, own):
                # Who comes later must not take what this row has already: two could do so for ever.
                stay, size = own, size + more
                planned |= missing
        if planned:
            self._begin(list(planned.values())[:_AT_ONCE])

    def _begin(self, needs: Sequence[_Need], *, retried: bool = False) -> None:
        arrival = self._arrival = _Arrival(retried)
        jobs = [(need, self._runner.open_adapter(need.model, need.card)) for need in needs]

        def work(progress: LoadProgress) -> None:
            for need, bring in jobs:
                try:
                    arrival.done.append(_Opened(need, bring(progress)))
                except BaseException as error:  # noqa: BLE001 - the engine's thread judges it
                    arrival.done.append(_Opened(need, error=error))
                    if isinstance(error, (OutOfMemory, MemoryError, DeviceFault)):
                        return
                progress(need.card.name, 1.0)

        self._loader.begin(work)

    def _collect(self, waiting: list[Row], held: set[AdapterKey], failed: dict[str, AquatintError]) -> bool:
        """Take in what has been opened; whether anything was."""
        arrival = self._arrival
        ended = [report for report in self._loader.poll() if isinstance(report, Ended)]
        if arrival is None:
            return False
        took = bool(arrival.done)
        while arrival.done:
            opened = arrival.done.popleft()
            if isinstance(opened.need.card, LoraCard) and opened.need.model in arrival.gone:
                continue
            stay = self._spoken_for(waiting, held, self._hopeful(waiting, failed))
            error = self._arrive(arrival, opened, held, stay)
            if error is not None:
                wanting = (row for row in waiting if any(need.key == opened.need.key for need in self._needs[row.id]))
                failed |= {row.request.id: error for row in wanting}
        if ended:
            self._arrival = None
            if arrival.again is not None and arrival.again.model not in arrival.gone:
                self._begin([arrival.again], retried=True)
        return took

    def _arrive(self, arrival: _Arrival, opened: _Opened, held: set[AdapterKey], stay: set[AdapterKey]) -> AquatintError | None:
        """Take it in; or why the rows that want it have no hope."""
        need, error, adapter = opened.need, opened.error, opened.adapter
        if isinstance(error, DeviceFault):
            raise error
        if isinstance(error, (OutOfMemory, MemoryError)) and not arrival.retried:
            for key in [key for key in self._here if key not in held]:
                self._let_go(key)
            arrival.again = need
            return None
        if error is not None or adapter is None:
            return error if isinstance(error, AquatintError) else _broken(need.card, error)
        size = self._sizes[need.key] = adapter.bytes
        if isinstance(need.card, LoraCard):
            self._bound[need.key] = need.model
        if self._budget is not None and size > self._budget:
            return _too_large([need.card], size, self._budget)
        if self._make_room(size, stay):
            self._here[need.key] = size
            self._names[need.key] = need.card.name
            self._runner.install_adapter(need.key, adapter)
        # Else others hold too much of the room. Its size is known now: it is fetched again when there is enough.
        return None

    def _make_room(self, size: int, stay: AbstractSet[AdapterKey]) -> bool:
        """Whether there is room for ``size`` bytes more, now that the least used have gone; nothing goes in vain."""
        if self._budget is None:
            return True
        over = sum(self._here.values()) + size - self._budget
        go: list[AdapterKey] = []
        for key, own in self._here.items():
            if over <= 0:
                break
            if key not in stay:
                go.append(key)
                over -= own
        if over > 0:
            return False
        for key in go:
            self._let_go(key)
        return True

    def _let_go(self, key: AdapterKey) -> None:
        del self._here[key]
        del self._names[key]
        self._runner.drop_adapter(key)

    def _memory(self) -> AdapterMemory:
        return AdapterMemory(sum(self._here.values()), self._budget or 0, tuple(self._names[key] for key in self._here))


_KINDS: Mapping[type, str] = {
    LoraCard: "LoRA",
    ControlCard: "Control network",
    ReferenceCard: "IP-Adapter",
    UpscalerCard: "Upscaler",
}


def _called(card: AdapterCard) -> str:
    return f"{_KINDS[type(card)]} {card.name!r}"


def _param(card: AdapterCard) -> str:
    names = {"LoraCard": "loras", "ControlCard": "controls", "ReferenceCard": "references", "UpscalerCard": "upscale"}
    return names[type(card).__name__]


def _too_large(cards: Sequence[AdapterCard], size: int, budget: int) -> AquatintError:
    what = " and ".join(_called(card) for card in cards)
    take = "takes" if len(cards) == 1 else "together take"
    msg = f"{what} {take} {_megabytes(size)}; adapters may take {_megabytes(budget)} on this device."
    return ModelTooLarge(msg, param=_param(cards[0]))


def _broken(card: AdapterCard, error: BaseException | None) -> AquatintError:
    return ModelLoadFailed(f"{_called(card)} cannot be loaded: {type(error).__name__}: {error}", param=_param(card))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
