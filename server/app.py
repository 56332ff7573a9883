"""The composition root: builds every part, passes it by hand, and runs the server."""

import asyncio
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

from pipelines.contract.request import ImageRequest
from server.access.idempotency import Keeper, Keeping
from server.access.keys import KeyRing
from server.access.limits import Allowances
from server.api.disclosing import disclosing
from server.api.documenting import document_keys
from server.api.errors import native_envelope, openai_envelope, renderer
from server.api.guard import key_guard
from server.api.health import healthz, metrics, readyz
from server.api.idempotency import Recording, Replaying
from server.api.links import Links
from server.api.native import assets, batches, generate, jobs, moderation, route
from server.api.native import preprocess_routes as preprocessing
from server.api.native import routes as native
from server.api.native import usage as spending
from server.api.native.answers import Results
from server.api.native.batch_inputs import Refilling
from server.api.native.batch_intake import Bounds, Intake
from server.api.native.standing import Standing
from server.api.openai import moderations
from server.api.openai import provenance as checks
from server.api.openai import routes as openai
from server.api.openai.answers import Answers
from server.api.outputs import output
from server.api.pictures import Pictures
from server.api.ratelimits import RateHeaders
from server.api.resolving import one_by_one
from server.api.serve import serve
from server.api.tracing import Tracing
from server.api.uploads import Uploads
from server.catalog.current import CurrentCatalog
from server.catalog.upstreams import Upstream
from server.db.assets import SqlAssets
from server.db.batches import LineEnds, SqlBatches
from server.db.cache import SqlCache
from server.db.database import Database, beside
from server.db.decisions import SqlDecisions
from server.db.idempotency import SqlIdempotency
from server.db.jobs import SqlJobs
from server.db.keys import SqlKeys
from server.db.ledger import SqlLedger
from server.db.migrating import migrate
from server.db.opening import opened
from server.db.quotas import SqlQuotas
from server.db.upstream_requests import SqlUpstreamRequests
from server.db.webhooks import Outbox, SqlDeliveries
from server.domain.asset import Told
from server.domain.call import Call
from server.domain.clock import Clock, SystemClock
from server.domain.generation import LOCAL
from server.domain.job import Job
from server.domain.ports import AssetStore, DecisionRepository, InputStore
from server.domain.retention import Keeping as ResultsKept
from server.egress.addresses import Allowed, networks
from server.egress.guarded import GuardedBackend
from server.fleet.devices import count_cuda, resolve
from server.fleet.fleet import Fleet
from server.fleet.process import ProcessHost
from server.fleet.supervisor import Patience
from server.gateway import notices
from server.gateway.caching import CacheBounds, Cached
from server.gateway.finish import Gateway
from server.gateway.identity import Identity
from server.gateway.metering import Counted, Metered
from server.gateway.moderation.audit import Audit
from server.gateway.moderation.audit import Keeping as DecisionsKept
from server.gateway.moderation.bench import Bench
from server.gateway.moderation.classifier import Classifier, ColourClassifier, NoClassifier
from server.gateway.moderation.nudenet import NudeNet
from server.gateway.moderation.remote import OpenAIModeration
from server.gateway.moderation.wrapping import Examined, Screened
from server.gateway.ocr import OcrReader
from server.gateway.preparing import Prepared
from server.gateway.provenance import Provenance
from server.gateway.roads import Roads
from server.gateway.routable import ProviderRoad, upstream_roads
from server.gateway.routed import Routed
from server.gateway.treasury import Treasury
from server.gateway.weights import Weights
from server.jobs.admission import Admission
from server.jobs.feeder import Feed, Feeder
from server.jobs.runner import Pace
from server.jobs.service import JobService
from server.jobs.webhooks import Courier, compose, compose_batch
from server.providers.local import LocalProvider
from server.providers.opening import Tools, open_road
from server.providers.provider import Provider
from server.providers.succession import Succession
from server.settings import Settings
from server.storage.assets import Assets
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.files import Retention
from server.storage.inputs import InputFolder
from server.storage.places import place
from server.storage.provenance.credentials import anchors, days_left, found
from server.storage.provenance.reading import Inspector
from server.storage.provenance.signing import Signer
from server.storage.signing import LinkSigner, secret_of
from server.telemetry.logs import configure, silent
from server.telemetry.metrics import Metrics

MOST_ASSETS = 10_000
"""Uploads of one caller: a folder of them is listed at each new one."""
SIGNED_INPUTS = 16 << 20
"""Bytes of input files that one request may have kept for their manifests."""
SOON_DAYS = 30
"""A certificate that has no more left is worth a warning."""
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
    roads: Roads
    routed: Routed
    store: AssetStore
    bucket: Bucket
    collector: Collector
    links: Links
    inputs: InputStore
    database: Database
    courier: Courier
    keys: KeyRing
    bench: Bench
    decisions: DecisionRepository
    cache: Cached
    treasury: Treasury
    allowances: Allowances
    jobs: JobService
    uploads: Uploads
    batches: SqlBatches
    feeder: Feeder
    keeper: Keeper
    inspector: Inspector
    signer: Signer | None = None


def assemble(settings: Settings, log: FilteringBoundLogger, *, cuda_devices: Callable[[], int] | None = None) -> Parts:
    """Every part, not yet running; raises `CatalogError` or `BadCredentials` if models.yaml or a certificate is wrong."""
    clock, counts = SystemClock(), Metrics()
    current = CurrentCatalog(settings.models, clock=clock, log=log, counted=counts.catalog, environ=os.environ)
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
    database = Database(settings.database_url or beside(settings.home))
    stores = storage(settings, database, clock, log, lambda tenant: current.catalog.policy(tenant).storage)
    keys = KeyRing(settings.api_keys, SqlKeys(database), clock, may_be_open=settings.may_be_open)
    outbox = Outbox(lambda job: compose(job, stores.links.absolute))
    fence = GuardedBackend(Allowed(networks(settings.webhook_networks)))
    courier = Courier(
        SqlDeliveries(database, clock),
        httpcore.AsyncConnectionPool(network_backend=fence, max_connections=16, keepalive_expiry=5.0),
        settings.webhook_secrets,
        clock=clock,
        log=log,
    )
    inputs = InputFolder(settings.assets, Retention(settings.assets_hours * 3600, settings.assets_bytes, MOST_ASSETS), clock)
    decisions = SqlDecisions(database)
    bench = moderation_bench(settings, current, decisions, clock=clock, metrics=counts, log=log)
    trusted = anchors(settings.provenance_trust, settings.provenance)
    signer = signing(settings, clock, trusted)
    provenance = Provenance(
        signer,
        lambda tenant: current.catalog.policy(tenant).disclosure,
        prompts=settings.provenance_prompt,
        clock=clock,
    )
    ledger = SqlLedger(database, clock, lambda crossing: notices.compose(crossing, clock))
    treasury = Treasury(ledger, current, clock=clock, metrics=counts, log=log, messages=courier.look)
    allowances = Allowances(lambda tenant: current.catalog.policy(tenant).limits, SqlQuotas(database), clock, counts)

    def charged(provider: Provider, upstream: Upstream, succession: Succession) -> Provider:
        def asks(request: ImageRequest, call: Call) -> tuple[str, str | None]:
            return upstream.means(request.model) or succession.model, call.wishes.quality

        return Metered(provider, upstream.name, treasury, clock, asks=asks)

    tools = Tools(os.environ, SqlUpstreamRequests(database, clock), clock, counts, log, charged)
    local = Counted(Prepared(LocalProvider(fleet), fleet), treasury, clock)
    roads = Roads(local, current, lambda upstream: open_road(upstream, tools), log)
    routed = Routed(
        ProviderRoad(LOCAL, roads),
        lambda: upstream_roads(roads),
        lambda: current.catalog,
        reader=OcrReader(),
        metrics=counts,
        log=log,
    )
    gateway = Gateway(
        Examined(Screened(routed, bench), bench),
        stores.store,
        counts,
        told=Told(settings.file_metadata),
        provenance=provenance,
    )
    # What all files of this server have in common counts too: none is given out that says less, or is signed by another.
    files = (settings.file_metadata, settings.image_classifier, settings.provenance_prompt, signer and signer.credentials.chain)
    cache = Cached(
        gateway,
        Identity(current, Weights(clock), shared=settings.cache_shared, files=files),
        SqlCache(database),
        stores.store,
        bounds=CacheBounds(
            seconds=settings.cache_hours * 3600,
            bytes=settings.cache_bytes if settings.cache_hours else 0,
            cost=settings.cache_cost_fraction,
        ),
        clock=clock,
        metrics=counts,
        log=log,
    )
    uploads = Uploads(settings.max_upload_pixels, counts)
    batches = SqlBatches(database, clock, compose_batch)

    def ended(job: Job) -> None:
        if job.order.notify is not None:
            courier.look()
        if job.order.line is not None:
            feeder.look()

    jobs = JobService(
        cache,
        SqlJobs(database, clock, LineEnds(outbox)),
        Admission(settings.queue_limit, counts),
        allowances,
        clock=clock,
        metrics=counts,
        log=log,
        ended=ended,
        recall=cache.recall,
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
        settings=settings,
        current=current,
        clock=clock,
        log=log,
        metrics=counts,
        fleet=fleet,
        roads=roads,
        routed=routed,
        store=stores.store,
        bucket=stores.bucket,
        collector=stores.collector,
        links=stores.links,
        inputs=inputs,
        database=database,
        courier=courier,
        keys=keys,
        jobs=jobs,
        bench=bench,
        decisions=decisions,
        cache=cache,
        treasury=treasury,
        allowances=allowances,
        uploads=uploads,
        batches=batches,
        feeder=feeder,
        keeper=keeper,
        inspector=Inspector(trusted),
        signer=signer,
    )


class Stores(msgspec.Struct, frozen=True):
    """The parts that keep results."""

    store: Assets
    bucket: Bucket
    collector: Collector
    links: Links


def storage(
    settings: Settings, database: Database, clock: Clock, log: FilteringBoundLogger, keeping: Callable[[str], ResultsKept]
) -> Stores:
    """What keeps results in the place that ``settings`` name, and lets go of them as they and ``keeping`` say."""
    rows = SqlAssets(database)
    bucket = Bucket(place(settings.storage_url, settings.outputs, settings.storage_endpoint), log)
    collector = Collector(rows, bucket, clock, log, budget=settings.outputs_bytes, keeping=keeping)
    store = Assets(
        rows,
        bucket,
        clock,
        log,
        seconds=settings.outputs_hours * 3600,
        keeping=keeping,
        public=settings.cdn_base_url is not None,
        deleted=collector.look,
    )
    signer = LinkSigner(lambda: [secret.encode() for secret in settings.link_secrets] or [secret_of(settings.home / "state")])
    links = Links(settings.public_url, signer, store, clock, seconds=settings.link_hours * 3600, cdn=settings.cdn_base_url)
    return Stores(store, bucket, collector, links)


def moderation_bench(
    settings: Settings,
    current: CurrentCatalog,
    decisions: DecisionRepository,
    *,
    clock: Clock,
    metrics: Metrics,
    log: FilteringBoundLogger,
) -> Bench:
    """Those who judge prompts and pictures, and the book of what they decide."""
    return Bench(
        lambda tenant: current.catalog.policy(tenant).moderation,
        _classifier(settings.image_classifier, clock, log),
        OpenAIModeration(settings.moderation_key, settings.moderation_url, clock),
        Audit(
            decisions,
            DecisionsKept(settings.moderation_days * 86_400, prompts=settings.moderation_prompts),
            clock=clock,
            metrics=metrics,
            log=log,
        ),
        metrics,
    )


def signing(settings: Settings, clock: Clock, trusted: bytes) -> Signer | None:
    """What signs results; None if there is no certificate. Raises `BadCredentials` if there is one and it cannot be used."""
    credentials = found(settings.provenance_certificate, settings.provenance_key, settings.provenance, clock.time())
    return None if credentials is None else Signer(credentials, settings.provenance_tsa, trusted)


def application(parts: Parts) -> Litestar:
    """The HTTP application over ``parts``; workers and jobs live as long as its lifespan."""
    settings = parts.settings

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        async with (
            opened(parts.database, parts.settings.home / "state", parts.log) as alone,
            parts.current.watched(),
            parts.courier.running(),
            parts.collector.running(),
            parts.bench.running(),
            parts.fleet.running(),
            parts.cache.running(),
            parts.roads.running(),
            parts.treasury.running(alone=alone),
            parts.keeper.running(alone=alone),
            parts.jobs.running(alone=alone),
            parts.feeder.running(),
        ):
            await check_exposure(parts)
            await check_signing(parts)
            tell_signing(parts)
            for problem in parts.bench.problems([policy.moderation for policy in parts.current.catalog.policies.values()]):
                parts.log.warning("moderation is incomplete", problem=problem)
            yield

    links = parts.links
    uploads, replaying = parts.uploads, Replaying(parts.keeper)
    given = {
        "current": parts.current,
        "jobs": parts.jobs,
        "fleet": parts.fleet,
        "roads": parts.roads,
        "routed": parts.routed,
        "store": parts.store,
        "metrics": parts.metrics,
        "inputs": parts.inputs,
        "uploads": uploads,
        "pictures": Pictures(
            uploads, parts.inputs, settings.max_upload_pixels, origins=SIGNED_INPUTS if parts.signer is not None else 0
        ),
        "inspector": parts.inspector,
        "answers": Answers(parts.store, links),
        "results": Results(parts.store, links),
        "links": links,
        "treasury": parts.treasury,
        "standing": Standing(parts.jobs, links),
        "bench": parts.bench,
        "audit": parts.decisions,
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
    images = [openai.generations, openai.edits, openai.models, openai.model, checks.check]
    ours = [generate.generate, generate.adapters, route.route, assets.store, assets.fetch, assets.forget]
    asynchronous = [jobs.enqueue, jobs.page, jobs.job, jobs.events, jobs.cancel, jobs.forget]
    dialects = [
        Router("/", route_handlers=ours, guards=guards, tags=["Native"]),
        Router("/", route_handlers=asynchronous, guards=guards, tags=["Jobs"]),
        Router("/", route_handlers=[spending.usage, spending.plan], guards=guards, tags=["Usage"]),
        Router(
            "/",
            route_handlers=[batches.create, batches.page, batches.batch, batches.results, batches.cancel, batches.forget],
            guards=guards,
            tags=["Batches"],
            request_max_body_size=settings.batch_bytes,
        ),
        Router("/", route_handlers=images, guards=guards, tags=["OpenAI Images"]),
        Router("/", route_handlers=[native.models, native.model, native.move], guards=guards, tags=["Models"]),
        Router("/", route_handlers=[moderations.moderate, moderation.decisions], guards=guards, tags=["Moderation"]),
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
        before_send=[disclosing(lambda: parts.current.catalog.policies)],
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
    one_by_one(app)
    document_keys(app.openapi_schema)
    recorded = Recording(app.asgi_handler, parts.keeper)
    app.asgi_handler = RateHeaders(recorded, parts.allowances)
    app.asgi_handler = Tracing(app.asgi_handler, metrics=parts.metrics, clock=parts.clock, log=parts.log)
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


async def check_signing(parts: Parts) -> None:
    """Raise `BadCredentials` if results are to be signed and cannot be."""
    if parts.signer is not None:
        await asyncio.to_thread(parts.signer.prove)


def tell_signing(parts: Parts) -> None:
    """Say in the log what results are signed with, and warn if its time is nearly over."""
    if parts.signer is not None:
        credentials = parts.signer.credentials
        days = days_left(credentials, parts.clock.time())
        tell = parts.log.warning if days <= SOON_DAYS else parts.log.info
        tell("results are signed", subject=credentials.subject, algorithm=credentials.algorithm, days_left=days)


def build(settings: Settings, log: FilteringBoundLogger | None = None) -> Litestar:
    """The application for ``settings``, for whoever brings a server of their own."""
    return application(assemble(settings, log or silent()))


async def run(settings: Settings) -> None:
    """Run the whole server until it is told to stop."""
    log = configure(settings.log_format, settings.log_level)
    parts = assemble(settings, log)
    # Before anything is listened on or loaded, so that what is wrong is said in one line.
    await migrate(parts.database)
    await parts.bucket.check()
    await check_exposure(parts)
    await check_signing(parts)
    await serve(
        application(parts),
        parts.jobs,
        host=settings.host,
        port=settings.port,
        drain_seconds=settings.drain_seconds,
        log=log,
    )


def _classifier(name: str, clock: Clock, log: FilteringBoundLogger) -> Classifier:
    if name == "nudenet":
        return NudeNet(clock, log)
    return ColourClassifier() if name == "colour" else NoClassifier()


def _constant(part: object) -> Callable[[], object]:
    return lambda: part
