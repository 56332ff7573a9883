"""The parts that keep results."""

from collections.abc import Callable

import msgspec
from structlog.typing import FilteringBoundLogger

from server.api.links import Links
from server.db.assets import SqlAssets
from server.db.database import Database
from server.domain.clock import Clock
from server.domain.ports import AssetStore
from server.domain.retention import Keeping as ResultsKept
from server.settings import Settings
from server.storage.assets import Assets
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.fresh import Fresh
from server.storage.places import place
from server.storage.signing import LinkSigner, secret_of


class Stores(msgspec.Struct, frozen=True):
    """The parts that keep results."""

    store: AssetStore
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
    assets = Assets(
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
    store = Fresh(assets)
    links = Links(settings.public_url, signer, store, clock, seconds=settings.link_hours * 3600, cdn=settings.cdn_base_url)
    return Stores(store, bucket, collector, links)
