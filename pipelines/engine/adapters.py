"""Every adapter of this worker: brought to the device for the rows that use it, kept for later ones while there is room.

A row begins once its model and all its adapters are there, and holds them to its end. Adapters are opened one at a time beside
the ticks. What is kept is bounded in bytes: the least recently used that no row holds goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import msgspec

from pipelines.contract.adapters import AdapterCard
from pipelines.contract.errors import AquatintError, ModelLoadFailed, ModelTooLarge, OutOfMemory
from pipelines.contract.messages import AdapterMemory, Event
from pipelines.engine.loader import Ended, Loader, Moved
from pipelines.engine.row import Row, RowId
from pipelines.engine.runner import AdapterKey, DeviceFault, OpenAdapter, Runner


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


@dataclass(slots=True)
class _Arrival:
    need: _Need
    retried: bool = False


class Adapters:
    """Owns what is known of adapters. Called only from the engine's thread."""

    def __init__(self, runner: Runner, loader: Loader, budget: int | None = None) -> None:
        """Keep at most ``budget`` bytes (None for no limit); ``loader`` is nobody else's."""
        self._runner, self._loader, self._budget = runner, loader, budget
        self._here: OrderedDict[AdapterKey, int] = OrderedDict()
        """Bytes of those on the device, the least recently used first."""
        self._names: dict[AdapterKey, str] = {}
        self._sizes: dict[AdapterKey, int] = {}
        """Bytes of all that have ever been here."""
        self._needs: dict[RowId, tuple[_Need, ...]] = {}
        self._arrival: _Arrival | None = None

    @property
    def loading(self) -> bool:
        """Whether one is on its way: it takes memory beside the ticks."""
        return self._arrival is not None

    def advance(self, rows: Iterable[Row], ready: Callable[[str], bool]) -> Change:
        """Collect what has arrived, make room, send for the next; ``ready`` says whether a model's rows may begin."""
        waiting, held = self._sort(rows, ready)
        failed: dict[str, AquatintError] = {}
        before = tuple(self._here)
        self._collect(waiting, held, failed)
        lacking = [row for row in waiting if row.request.id not in failed and self._missing(row)]
        self._next(lacking, self._spoken_for(waiting, held, lacking))
        self._collect(waiting, held, failed)  # a loader that does its work at once is done by now
        for key in held:
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

    def _spoken_for(self, waiting: list[Row], held: set[AdapterKey], lacking: list[Row]) -> set[AdapterKey]:
        """What must stay: held by rows that have begun, by those that can begin now, and by the first that cannot yet."""
        firm = [row for row in waiting if not self._missing(row)] + lacking[:1]
        return held | {need.key for row in firm for need in self._needs[row.id]}

    def _next(self, lacking: list[Row], stay: set[AdapterKey]) -> None:
        if self._arrival is not None:
            return
        for row in lacking:
            for need in self._missing(row):
                if self._make_room(self._sizes.get(need.key, 0), stay):
                    self._begin(_Arrival(need))
                    return

    def _begin(self, arrival: _Arrival) -> None:
        self._arrival = arrival
        self._loader.begin(self._runner.open_adapter(arrival.need.model, arrival.need.card))

    def _collect(self, waiting: list[Row], held: set[AdapterKey], failed: dict[str, AquatintError]) -> None:
        for report in self._loader.poll():
            if isinstance(report, Moved):
                continue
            arrival, self._arrival = self._arrival, None
            if arrival is None:
                msg = "unreachable: only an adapter under way reports"
                raise RuntimeError(msg)
            error = self._arrive(arrival, report, held)
            if error is None:
                continue
            for row in waiting:
                if any(need.key == arrival.need.key for need in self._needs[row.id]):
                    failed[row.request.id] = error

    def _arrive(self, arrival: _Arrival, report: Ended, held: set[AdapterKey]) -> AquatintError | None:
        """Take it in; or why the rows that want it have no hope."""
        need, error = arrival.need, report.error
        if isinstance(error, DeviceFault):
            raise error
        if isinstance(error, (OutOfMemory, MemoryError)) and not arrival.retried:
            for key in [key for key in self._here if key not in held]:
                self._let_go(key)
            self._begin(_Arrival(need, retried=True))
            return None
        if error is not None:
            return error if isinstance(error, AquatintError) else _broken(need.card, error)
        opened: OpenAdapter = report.result  # type: ignore[assignment] # what `open_adapter` gives
        size = self._sizes[need.key] = opened.bytes
        if self._budget is not None and size > self._budget:
            msg = f"{_called(need.card)} takes {_megabytes(size)}; adapters may take {_megabytes(self._budget)} on this device."
            return ModelTooLarge(msg, param=_param(need.card))
        if self._make_room(size, held):
            self._here[need.key] = size
            self._names[need.key] = need.card.name
            self._runner.install_adapter(need.key, opened)
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


def _called(card: AdapterCard) -> str:
    return f"{type(card).__name__.removesuffix('Card')} {card.name!r}"


def _param(card: AdapterCard) -> str:
    names = {"LoraCard": "loras", "ControlCard": "controls", "ReferenceCard": "references", "UpscalerCard": "upscale"}
    return names[type(card).__name__]


def _broken(card: AdapterCard, error: BaseException) -> AquatintError:
    return ModelLoadFailed(f"{_called(card)} cannot be loaded: {type(error).__name__}: {error}", param=_param(card))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
