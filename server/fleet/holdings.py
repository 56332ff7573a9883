"""What one worker has of the models: known, loading, loaded, failed, and how full its memory is."""

from collections.abc import Iterable

from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.contract.errors import ErrorReport
from pipelines.contract.messages import (
    AdapterMemory,
    KnowModel,
    LoadModel,
    Memory,
    ModelFailed,
    ModelLoaded,
    ModelLoading,
    ModelUnloaded,
    UnloadModel,
)
from server.fleet.health import Loading, ModelState, ModelStatus

ModelCommand = LoadModel | KnowModel | UnloadModel
ModelEvent = ModelLoading | ModelLoaded | ModelFailed | ModelUnloaded | Memory | AdapterMemory


_WAITING = "waiting"
"""Told to load, and not begun."""


class Holdings:
    """The server's books on one worker's models, all by the names that the worker knows. Owned by its `Worker`."""

    __slots__ = (
        "_evicted",
        "_facts",
        "_leaving",
        "adapters",
        "cards",
        "failed",
        "loaded",
        "loading",
        "memory",
    )

    def __init__(self) -> None:
        self.cards: dict[str, ModelCard] = {}
        """Every card it has been told of, as the catalog has it."""
        self.loaded: set[str] = set()
        self.loading: dict[str, Loading] = {}
        self.failed: dict[str, ErrorReport] = {}
        self.memory: Memory | None = None
        self.adapters: AdapterMemory | None = None
        self._facts: dict[str, ModelFacts] = {}
        self._evicted: set[str] = set()
        """Off the device, and perhaps in RAM."""
        self._leaving: set[str] = set()
        """Those that the worker is to be told to unload once nobody works with them."""

    @property
    def at_work(self) -> list[str]:
        """Names of the models whose loading has begun."""
        return [name for name, now in self.loading.items() if now.part != _WAITING]

    def know(self, name: str, card: ModelCard) -> None:
        """It is told of ``card``."""
        self.cards[name] = card

    def load(self, name: str, card: ModelCard) -> None:
        """It is told to load ``card``."""
        self.cards[name] = card
        self.failed.pop(name, None)
        self._leaving.discard(name)
        if name not in self.loaded:
            self.loading[name] = Loading(part=_WAITING, fraction=0.0)

    def leave(self, name: str) -> None:
        """``name`` is to be unloaded once nobody works with it; until then it gets no new work."""
        if name in self.loaded or name in self.loading or name in self._evicted:
            self._leaving.add(name)

    def stay(self, name: str) -> None:
        """``name`` is wanted again."""
        self._leaving.discard(name)

    def leaving(self, name: str) -> bool:
        """Whether it gets no new work until it has been unloaded."""
        return name in self._leaving

    def due(self, busy: Iterable[str]) -> list[str]:
        """Those to be unloaded now, given who has work in flight; they are taken off the list."""
        found = sorted(self._leaving.difference(busy, self.loading))
        self._leaving.difference_update(found)
        return found

    def forget(self, name: str) -> None:
        """``name`` is in no catalog any more, and the worker has been told to let go of it."""
        self.cards.pop(name, None)
        self.failed.pop(name, None)
        self._facts.pop(name, None)

    def take(self, event: ModelEvent) -> None:
        """Enter what the worker says."""
        match event:
            case ModelLoading():
                self.loading[event.model] = Loading(part=event.part, fraction=event.fraction)
            case ModelLoaded():
                self.loading.pop(event.model, None)
                self.failed.pop(event.model, None)
                self.loaded.add(event.model)
                self._evicted.discard(event.model)
                self._facts[event.model] = event.facts
            case ModelFailed():
                self._gone(event.model)
                self.failed[event.model] = event.error
            case ModelUnloaded():
                self._gone(event.model)
                if event.evicted:
                    self._evicted.add(event.model)
            case Memory():
                self.memory = event
            case AdapterMemory():
                self.adapters = event

    def id(self, name: str) -> str:
        """The id behind ``name``."""
        card = self.cards.get(name)
        return name.rpartition("@")[0] or name if card is None else card.id

    def status(self, worker: str, name: str) -> ModelStatus:
        """How ``name`` stands here."""
        facts = self._facts.get(name)
        if name in self.loading:
            return ModelStatus(worker, ModelState.LOADING, self.loading[name], facts=facts)
        if name in self.loaded:
            return ModelStatus(worker, ModelState.LOADED, facts=facts)
        if name in self.failed:
            return ModelStatus(worker, ModelState.FAILED, error=self.failed[name].message, facts=facts)
        return ModelStatus(worker, ModelState.COLD, facts=facts)

    def _gone(self, name: str) -> None:
        self.loading.pop(name, None)
        self.loaded.discard(name)
        self._evicted.discard(name)
