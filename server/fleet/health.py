"""What is known of the workers' well-being, for people and for readiness."""

from enum import StrEnum

import msgspec

from pipelines.contract.catalog import ModelFacts


class WorkerState(StrEnum):
    """The four things a worker can be."""

    STARTING = "starting"
    """The process starts or loads what it preloads."""
    READY = "ready"
    BUSY = "busy"
    FAILED = "failed"
    """It died; another start follows after a pause."""


STATES = tuple(state.value for state in WorkerState)


class Loading(msgspec.Struct, frozen=True):
    """How far a model is."""

    part: str
    fraction: float


class ModelState(StrEnum):
    """The four things a model can be on a worker."""

    LOADED = "loaded"
    LOADING = "loading"
    COLD = "cold"
    """Known, and loaded when a request needs it."""
    FAILED = "failed"
    """It could not be loaded; tried again when told to, or after an edit of models.yaml."""


MODEL_STATES = tuple(state.value for state in ModelState)


class ModelStatus(msgspec.Struct, frozen=True):
    """One model on one worker, as it is now."""

    worker: str
    state: ModelState
    loading: Loading | None = None
    error: str | None = None
    facts: ModelFacts | None = None
    """What its last load there found."""


class WorkerMemory(msgspec.Struct, frozen=True):
    """What models take up on a worker, in bytes."""

    device_bytes: int
    device_budget: int
    """0: no limit is set."""
    ram_bytes: int
    """Weights kept in RAM to come back sooner."""


class WorkerAdapters(msgspec.Struct, frozen=True):
    """What LoRAs, control networks and their like take up on a worker's device."""

    bytes: int
    budget: int
    """0: no limit is set."""
    resident: tuple[str, ...]
    """Their names, the least recently used first."""


class WorkerHealth(msgspec.Struct, frozen=True):
    """One worker, as it is now."""

    name: str
    device: str
    device_name: str | None
    state: WorkerState
    pid: int | None
    models: tuple[str, ...]
    """Loaded ones."""
    loading: dict[str, Loading]
    failed: dict[str, str]
    """Models that could not be loaded, and why."""
    in_flight: int
    waiting: int
    restarts: int
    reason: str | None
    """Why the last one died."""
    cold: tuple[str, ...] = ()
    """Models that are loaded when a request needs them."""
    retiring: tuple[str, ...] = ()
    """Models whose card was changed or removed, and whose last requests are being finished."""
    memory: WorkerMemory | None = None
    adapters: WorkerAdapters | None = None
    """None before the first arrived."""

    def serves(self, model: str) -> bool:
        """Whether a request for ``model`` would be worked on, if need be after bringing the model back onto the device."""
        known = model in self.models or model in self.loading or model in self.cold
        return known and self.state in (WorkerState.READY, WorkerState.BUSY)
