"""From what the server knows to the native dialect's words: pure."""

from collections.abc import Mapping, Sequence

from pipelines.contract.errors import InvalidRequest
from server.api.native.schemas import NativeModel, NativeModels, NativeUpstream, NativeWorker, OnWorker
from server.catalog.catalog import Catalog
from server.catalog.current import CatalogStatus
from server.fleet.health import ModelState, ModelStatus, WorkerHealth
from server.providers.road import UpstreamHealth

_BEST_FIRST = (ModelState.LOADED, ModelState.LOADING, ModelState.COLD, ModelState.FAILED)
_VERBS = ("load", "unload")


def listed(
    catalog: Catalog,
    status: CatalogStatus,
    models: Mapping[str, Sequence[ModelStatus]],
    workers: Sequence[WorkerHealth],
    upstreams: Sequence[UpstreamHealth] = (),
) -> NativeModels:
    """Every model of ``catalog`` with its state on every worker."""
    return NativeModels(
        data=[model(catalog, each, models.get(each, ()), workers) for each in catalog.cards],
        workers=[
            NativeWorker(each.name, each.device, each.device_name, each.state.value, each.memory, each.adapters, each.retiring)
            for each in workers
        ],
        catalog=status,
        upstreams=[_upstream(catalog, health) for health in upstreams if health.name in catalog.upstreams],
    )


def model(catalog: Catalog, model_id: str, statuses: Sequence[ModelStatus], workers: Sequence[WorkerHealth]) -> NativeModel:
    """One model with its state on every worker."""
    card = catalog.cards[model_id]
    devices = {worker.name: worker.device for worker in workers}
    states = {status.state for status in statuses}
    return NativeModel(
        id=card.id,
        family=card.family.value,
        source=card.source,
        description=card.description,
        default=card.id == catalog.default_model,
        aliases=tuple(alias for alias, target in catalog.aliases.items() if target == card.id),
        preload=card.preload,
        pin=card.pin,
        state=next((state for state in _BEST_FIRST if state in states), ModelState.COLD),
        workers=tuple(_on(status, devices.get(status.worker, "")) for status in statuses),
        defaults=card.defaults,
        limits=card.limits,
        qualities=dict(card.qualities),
        facts=next((status.facts for status in statuses if status.facts is not None), None),
    )


def target(path: str) -> tuple[str, str]:
    """Model and verb of ``/MODEL/load`` or ``/MODEL/unload``; a model's name may have slashes of its own."""
    name, _, verb = path.lstrip("/").rpartition("/")
    if not name or verb not in _VERBS:
        msg = f"POST to /api/models/MODEL/{' or /api/models/MODEL/'.join(_VERBS)}."
        raise InvalidRequest(msg)
    return name, verb


def _upstream(catalog: Catalog, health: UpstreamHealth) -> NativeUpstream:
    upstream = catalog.upstreams[health.name]
    return NativeUpstream(
        name=upstream.name,
        models=upstream.ids,
        aliases=tuple(alias for alias, target in catalog.aliases.items() if target in upstream.ids),
        description=upstream.description,
        health=health,
    )


def _on(status: ModelStatus, device: str) -> OnWorker:
    return OnWorker(
        worker=status.worker,
        device=device,
        state=status.state,
        part=status.loading.part if status.loading else None,
        fraction=status.loading.fraction if status.loading else None,
        error=status.error,
        load_seconds=status.facts.load_seconds if status.facts else None,
    )
