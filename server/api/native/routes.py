"""The addresses of the native dialect: what models there are, how they stand, and moving them by hand."""

from http import HTTPStatus

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import UnknownModel
from server.api.documenting import READING, failures
from server.api.guard import SCOPE
from server.api.native import translate
from server.api.native.bodies import NativeErrorBody
from server.api.native.schemas import NativeModel, NativeModels
from server.catalog.current import CurrentCatalog
from server.domain.key import Scope
from server.fleet.fleet import Fleet
from server.gateway.roads import Roads

_LIVE = {"Cache-Control": "no-store"}


@get("/api/models", responses=failures(NativeErrorBody, READING))
async def models(
    current: NamedDependency[CurrentCatalog], fleet: NamedDependency[Fleet], roads: NamedDependency[Roads]
) -> Response[NativeModels]:
    """Every model of models.yaml: its card, its state and progress on each worker, the workers' memory; and the upstreams."""
    found = translate.listed(current.catalog, current.status, fleet.models(), fleet.health(), roads.health())
    return Response(found, headers=_LIVE)


@get("/api/models/{model_id:path}", responses=failures(NativeErrorBody, (400, 404, *READING)))
async def model(
    model_id: FromPath[str], current: NamedDependency[CurrentCatalog], fleet: NamedDependency[Fleet]
) -> Response[NativeModel]:
    """One model of this server, by its id or an alias."""
    return _shown(model_id.lstrip("/"), current, fleet, HTTPStatus.OK)


@post(
    "/api/models/{model_action:path}",
    opt={SCOPE: Scope.ADMIN},
    status_code=HTTPStatus.ACCEPTED,
    responses=failures(NativeErrorBody, (400, 404, *READING)),
)
async def move(
    model_action: FromPath[str],
    current: NamedDependency[CurrentCatalog],
    fleet: NamedDependency[Fleet],
    worker: FromQuery[str | None] = None,
) -> Response[NativeModel]:
    """``MODEL/load``: bring it onto the device, trying again if it failed. ``MODEL/unload``: off it, after what is in flight.

    Answers at once with the model's state; asking twice is the same as asking once. ``worker`` names one worker; else all.
    """
    name, verb = translate.target(model_action)
    card = _ours(name, current)
    act = fleet.load if verb == "load" else fleet.unload
    act(card.id, worker)
    return _shown(name, current, fleet, HTTPStatus.ACCEPTED)


def _shown(name: str, current: CurrentCatalog, fleet: Fleet, status: HTTPStatus) -> Response[NativeModel]:
    card = _ours(name, current)
    found = translate.model(current.catalog, card.id, fleet.models()[card.id], fleet.health())
    return Response(found, status_code=status, headers=_LIVE)


def _ours(name: str, current: CurrentCatalog) -> ModelCard:
    card = current.catalog.card(name)
    if card.id not in current.catalog.cards:
        msg = f"{name!r} is an upstream; GET /api/models shows how it stands."
        raise UnknownModel(msg, param="model")
    return card
