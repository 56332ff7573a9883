"""The composition root: builds every part, passes it by hand, and runs the server."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpcore
import msgspec
from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from structlog.typing import FilteringBoundLogger

from server.access.idempotency import Keeper, Keeping
from server.access.keys import KeyRing
from server.api.documenting import document_keys
from server.api.errors import native_envelope, openai_envelope, renderer
from server.api.guard import key_guard
from server.api.health import healthz, metrics, readyz
from server.api.idempotency import Recording, Replaying
from server.api.links import Links
from server.api.native import assets, batches, generate, jobs
from server.api.native import preprocess_routes as preprocessing
from server.api.native import routes as native
from server.api.native.answers import Results
from server.api.native.batch_inputs import Refilling
from server.api.native.batch_intake import Bounds, Intake
from server.api.native.standing import Standing
from server.api.openai import routes as openai
from server.api.openai.answers import Answers
from server.api.outputs import output
from server.api.pictures import Pictures
from server.api.serve import serve
from server.api.tracing import Tracing
from server.api.uploads import Uploads
from server.catalog.current import CurrentCatalog
from server.db.batches import LineEnds, SqlBatches
from server.db.database import Database, beside
from server.db.idempotency import SqlIdempotency
from server.db.jobs import SqlJobs
from server.db.keys import SqlKeys
from server.db.migrating import migrate
from server.db.opening import opened
from server.db.webhooks import Outbox, SqlDeliveries
from server.domain.clock import Clock, SystemClock
from server.domain.job import Job
from server.domain.ports import AssetStore, InputStore
from server.egress.addresses import Allowed, networks
from server.egress.guarded import GuardedBackend
from server.fleet.devices import count_cuda, resolve
from server.fleet.fleet import Fleet
from server.fleet.process import ProcessHost
from server.fleet.supervisor import Patience
from server.gateway.finish import Gateway
from server.gateway.preparing import Prepared
from server.jobs.admission import Admission
from server.jobs.feeder import Feed, Feeder
from server.jobs.runner import Pace
from server.jobs.service import JobService
from server.jobs.webhooks import Courier, compose, compose_batch
from server.providers.local import LocalProvider
from server.settings import Settings
from server.storage.blobs import FolderStore
from server.storage.files import Retention
from server.storage.inputs import InputFolder
from server.telemetry.logs import configure, silent
from server.telemetry.metrics import Metrics

MOST_ASSETS = 10_000
"""Uploads of one caller: a folder of them is listed at each new one."""
_ABOUT = (
    "Image generation. `POST /api/generate` is the one address where everything can be said; the OpenAI Images routes take the "
    "same names as extension keys. With keys configured, send `Authorization: Bearer KEY`."
)


class Parts(msgspec.Struct, frozen=True):
    """What the server is made of."""

    settings: Settings
    current: CurrentCatalog
    clock: Clock
    log: FilteringBoundLogger
    metrics: Metrics
    fleet: Fleet
    store: AssetStore
    inputs: InputStore
    database: Database
    courier: Courier
    keys: KeyRing
    jobs: JobService
    uploads: Uploads
    batches: SqlBatches
    feeder: Feeder
    keeper: Keeper


def assemble(settings: Settings, log: FilteringBoundLogger, *, cuda_devices: Callable[[], int] | None = None) -> Parts:
    """Every part, not yet running; raises `CatalogError` if models.yaml is wrong."""
    clock, counts = SystemClock(), Metrics()
    current = CurrentCatalog(settings.models, clock=clock, log=log, counted=counts.catalog)
    count = cuda_devices or (lambda: count_cuda(os.environ))
    fleet = Fleet(
        resolve(settings.devices, count),
        host=ProcessHost(
            log,
            device_memory_mb=settings.device_memory_mb,
            ram_memory_mb=settings.ram_memory_mb,
            adapter_memory_mb=settings.adapter_memory_mb,
            state=settings.home / "state",
        ),
        current=current,
        patience=Patience(starting=settings.worker_start_seconds, working=settings.worker_hang_seconds),
        clock=clock,
        metrics=counts,
        log=log,
    )
    retention = Retention(settings.outputs_hours * 3600, settings.outputs_bytes)
    store = FolderStore(settings.outputs, retention, clock)
    database = Database(settings.database_url or beside(settings.home))
    keys = KeyRing(settings.api_keys, SqlKeys(database), clock, may_be_open=settings.may_be_open)
    links = Links(settings.public_url)
    outbox = Outbox(lambda job: compose(job, links.absolute))
    fence = GuardedBackend(Allowed(networks(settings.webhook_networks)))
    courier = Courier(
        SqlDeliveries(database, clock),
        httpcore.AsyncConnectionPool(network_backend=fence, max_connections=16, keepalive_expiry=5.0),
        settings.webhook_secrets,
        clock=clock,
        log=log,
    )
    inputs = InputFolder(settings.assets, Retention(settings.assets_hours * 3600, settings.assets_bytes, MOST_ASSETS), clock)
    uploads = Uploads(settings.max_upload_pixels, counts)
    batches = SqlBatches(database, clock, compose_batch)

    def ended(job: Job) -> None:
        if job.order.notify is not None:
            courier.look()
        if job.order.line is not None:
            feeder.look()

    jobs = JobService(
        Gateway(Prepared(LocalProvider(fleet), fleet), store, counts),
        SqlJobs(database, clock, LineEnds(outbox)),
        Admission(settings.queue_limit, counts),
        clock=clock,
        metrics=counts,
        log=log,
        ended=ended,
        pace=Pace(keep=settings.jobs_hours * 3600),
    )
    feeder = Feeder(
        batches,
        jobs,
        Refilling(uploads, batches, settings.max_upload_pixels),
        ended=courier.look,
        clock=clock,
        log=log,
        feed=Feed(keep=settings.batch_hours * 3600),
    )
    keeper = Keeper(SqlIdempotency(database, clock), clock, log, Keeping(seconds=settings.idempotency_hours * 3600))
    return Parts(
        settings,
        current,
        clock,
        log,
        counts,
        fleet,
        store,
        inputs,
        database,
        courier,
        keys,
        jobs,
        uploads,
        batches,
        feeder,
        keeper,
    )


def application(parts: Parts) -> Litestar:
    """The HTTP application over ``parts``; workers and jobs live as long as its lifespan."""
    settings = parts.settings

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with (
            opened(parts.database, parts.settings.home / "state", parts.log) as alone,
            parts.current.watched(),
            parts.courier.running(),
            parts.fleet.running(),
            parts.keeper.running(alone=alone),
            parts.jobs.running(alone=alone),
            parts.feeder.running(),
        ):
            await check_exposure(parts)
            yield

    links = Links(settings.public_url)
    uploads, replaying = parts.uploads, Replaying(parts.keeper)
    given = {
        "current": parts.current,
        "jobs": parts.jobs,
        "fleet": parts.fleet,
        "store": parts.store,
        "metrics": parts.metrics,
        "inputs": parts.inputs,
        "uploads": uploads,
        "pictures": Pictures(uploads, parts.inputs, settings.max_upload_pixels),
        "answers": Answers(parts.store, links),
        "results": Results(parts.store, links),
        "links": links,
        "standing": Standing(parts.jobs, links),
        "batches": parts.batches,
        "feeder": parts.feeder,
        "intake": Intake(
            parts.batches,
            uploads,
            parts.inputs,
            max_pixels=settings.max_upload_pixels,
            bounds=Bounds(settings.batch_lines, settings.batch_bytes),
            clock=parts.clock,
        ),
        "replaying": replaying,
    }
    guards = [key_guard(parts.keys)]
    images = [openai.generations, openai.edits, openai.models, openai.model]
    ours = [generate.generate, generate.adapters, assets.store, assets.fetch, assets.forget]
    asynchronous = [jobs.enqueue, jobs.page, jobs.job, jobs.events, jobs.cancel, jobs.forget]
    dialects = [
        Router("/", route_handlers=ours, guards=guards, tags=["Native"]),
        Router("/", route_handlers=asynchronous, guards=guards, tags=["Jobs"]),
        Router(
            "/",
            route_handlers=[batches.create, batches.page, batches.batch, batches.results, batches.cancel, batches.forget],
            guards=guards,
            tags=["Batches"],
            request_max_body_size=settings.batch_bytes,
        ),
        Router("/", route_handlers=images, guards=guards, tags=["OpenAI Images"]),
        Router("/", route_handlers=[native.models, native.model, native.move], guards=guards, tags=["Models"]),
        Router("/", route_handlers=[preprocessing.preprocess, preprocessing.preprocessors], guards=guards, tags=["Controls"]),
    ]
    app = Litestar(
        route_handlers=[*dialects, output, healthz, readyz, metrics],
        dependencies={
            **{name: Provide(_constant(part), sync_to_thread=False) for name, part in given.items()},
            # Asked for each request, which keeps what it got: an edit of models.yaml never splits a request.
            "catalog": Provide(lambda: parts.current.catalog, sync_to_thread=False),
        },
        exception_handlers={Exception: renderer({"/v1": openai_envelope, "/api": native_envelope}, parts.log)},
        before_request=replaying,
        lifespan=[lifespan],
        request_max_body_size=settings.max_upload_bytes,
        # JSON only: the pages that render it load their scripts from other people's servers.
        openapi_config=OpenAPIConfig(
            title="Aquatint",
            version="1",
            description=_ABOUT,
            use_handler_docstrings=True,
            render_plugins=[JsonRenderPlugin()],
            components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
            # Either, as a server may have no keys.
            security=[{"key": []}, {}],
        ),
        logging_config=None,
        debug=False,
    )
    document_keys(app.openapi_schema)
    recorded = Recording(app.asgi_handler, parts.keeper)
    app.asgi_handler = Tracing(recorded, metrics=parts.metrics, clock=parts.clock, log=parts.log)
    return app


class Exposed(Exception):
    """Other machines could come in, and nothing keeps anybody out."""


async def check_exposure(parts: Parts) -> None:
    """Raise `Exposed` if other machines can reach the server, there is no key, and nobody has said that this is meant."""
    settings = parts.settings
    if settings.api_keys or settings.may_be_open or await parts.keys.live():
        return
    msg = (
        f"--host {settings.host} lets other machines in, and there is no key: make one with 'aquatint keys create' or set "
        "AQUATINT_API_KEY; or say --open-access if anyone who reaches it may use it."
    )
    raise Exposed(msg)


def build(settings: Settings, log: FilteringBoundLogger | None = None) -> Litestar:
    """The application for ``settings``, for whoever brings a server of their own."""
    return application(assemble(settings, log or silent()))


async def run(settings: Settings) -> None:
    """Run the whole server until it is told to stop."""
    log = configure(settings.log_format, settings.log_level)
    parts = assemble(settings, log)
    # Before anything is listened on or loaded, so that what is wrong is said in one line.
    await migrate(parts.database)
    await check_exposure(parts)
    await serve(
        application(parts),
        parts.jobs,
        host=settings.host,
        port=settings.port,
        drain_seconds=settings.drain_seconds,
        log=log,
    )


def _constant(part: object) -> Callable[[], object]:
    return lambda: part
