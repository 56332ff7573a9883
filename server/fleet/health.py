"""What is known of the workers' well-being, for people and for readiness."""

from enum import StrEnum

import msgspec


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

    def serves(self, model: str) -> bool:
        """Whether a request for ``model`` would be worked on at once."""
        return model in self.models and self.state in (WorkerState.READY, WorkerState.BUSY)
