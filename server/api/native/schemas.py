"""Bodies of the native dialect."""

from typing import Literal

import msgspec

from pipelines.contract.catalog import Defaults, Limits, ModelFacts
from server.catalog.current import CatalogStatus
from server.fleet.health import ModelState, WorkerAdapters, WorkerMemory
from server.providers.road import UpstreamHealth


class OnWorker(msgspec.Struct, frozen=True):
    """One model on one worker."""

    worker: str
    device: str
    state: ModelState
    part: str | None = None
    """While loading: the component at hand."""
    fraction: float | None = None
    """While loading: how much is done, 0 to 1."""
    error: str | None = None
    """After a failed load: why."""
    load_seconds: float | None = None
    """How long its last load there took."""


class NativeModel(msgspec.Struct, frozen=True):
    """One model of models.yaml, and how it stands."""

    id: str
    family: str
    source: str
    description: str
    default: bool
    """Whether it is what a request gets that names no model."""
    aliases: tuple[str, ...]
    preload: bool
    pin: bool
    state: ModelState
    """The best of its states on the workers: loaded, loading, cold, failed."""
    workers: tuple[OnWorker, ...]
    defaults: Defaults
    limits: Limits
    qualities: dict[str, int]
    facts: ModelFacts | None
    """What its latest load found; null if it has not been loaded since the workers started."""


class NativeWorker(msgspec.Struct, frozen=True):
    """One worker, as far as models are concerned."""

    worker: str
    device: str
    device_name: str | None
    state: str
    memory: WorkerMemory | None
    """null if the worker has not told."""
    adapters: WorkerAdapters | None
    """null before the first adapter arrived."""
    retiring: tuple[str, ...]
    """Models whose old card still finishes requests."""


class NativeUpstream(msgspec.Struct, frozen=True):
    """One upstream of models.yaml that is on, and how it stands."""

    name: str
    models: tuple[str, ...]
    """What a request may name as its model."""
    aliases: tuple[str, ...]
    description: str
    health: UpstreamHealth


class NativeModels(msgspec.Struct, frozen=True):
    """GET /api/models."""

    data: list[NativeModel]
    workers: list[NativeWorker]
    catalog: CatalogStatus
    upstreams: list[NativeUpstream]
    object: Literal["list"] = "list"
