"""What the server is made of, all of it put together by hand."""

import os
from collections.abc import Callable

import httpcore
import msgspec
from structlog.typing import FilteringBoundLogger

from pipelines.contract.request import ImageRequest
from server.access.idempotency import Keeper, Keeping
from server.access.keys import KeyRing
from server.access.limits import Allowances
from server.api.links import Links
from server.api.native.batch_inputs import Refilling
from server.api.uploads import Uploads
from server.app.judging import moderation_bench
from server.app.signing import signed_inputs, signing
from server.app.storing import storage
from server.catalog.current import CurrentCatalog
from server.catalog.upstreams import Upstream
from server.db.batches import LineEnds, SqlBatches
from server.db.cache import SqlCache
from server.db.database import Database, beside
from server.db.decisions import SqlDecisions
from server.db.idempotency import SqlIdempotency
from server.db.jobs import SqlJobs
from server.db.keys import SqlKeys
from server.db.ledger import SqlLedger
from server.db.quotas import SqlQuotas
from server.db.upstream_requests import SqlUpstreamRequests
from server.db.webhooks import Outbox, SqlDeliveries
from server.domain.asset import Told
from server.domain.call import Call
from server.domain.clock import Clock, SystemClock
from server.domain.generation import LOCAL
from server.domain.job import Job
from server.domain.ports.assets import AssetStore
from server.domain.ports.decisions import DecisionRepository
from server.domain.ports.inputs import InputStore
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
from server.gateway.moderation.bench import Bench
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
from server.providers.paid import Paid
from server.providers.provider import Provider
from server.providers.succession import Succession
from server.settings import Settings
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.provenance.credentials import anchors
from server.storage.provenance.reading import Inspector
from server.storage.provenance.signing import Signer
from server.storage.write_behind import WriteBehind
from server.telemetry.metrics import Metrics


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
    behind: WriteBehind | None
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

    def charged(provider: Provider, upstream: Upstream, succession: Succession) -> Paid:
        def asks(request: ImageRequest, call: Call) -> tuple[str, str | None]:
            return succession.meant(request.model), call.wishes.quality

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
        charged=treasury.again,
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
        Refilling(uploads, batches, settings.max_upload_pixels, origins=signed_inputs(signer)),
        ended=courier.look,
        discard=stores.store.discard,
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
        inputs=stores.inputs,
        behind=stores.behind,
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
