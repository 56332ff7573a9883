"""The parts that keep results and uploads."""

from collections.abc import Callable

import msgspec
from structlog.typing import FilteringBoundLogger

from server.api.links import Links
from server.db.assets import SqlAssets
from server.db.database import Database
from server.db.uploads import SqlUploads
from server.domain.clock import Clock
from server.domain.ports.assets import AssetRepository, AssetStore
from server.domain.ports.inputs import InputStore
from server.domain.retention import Keeping as ResultsKept
from server.settings import Settings
from server.storage.assets import Assets
from server.storage.bucket import Bucket
from server.storage.collecting import Collector
from server.storage.files import Retention
from server.storage.fresh import Fresh
from server.storage.inputs import InputFolder
from server.storage.places import place
from server.storage.shared_inputs import SharedInputs, UploadShelf
from server.storage.signing import LinkSigner, secret_of
from server.storage.write_behind import WriteBehind

MOST_UPLOADS = 10_000
"""Of one caller: they are listed, or counted, at each new one."""


class Stores(msgspec.Struct, frozen=True):
    """The parts that keep results and uploads."""

    store: AssetStore
    bucket: Bucket
    collector: Collector
    links: Links
    inputs: InputStore
    behind: WriteBehind | None


def storage(
    settings: Settings, database: Database, clock: Clock, log: FilteringBoundLogger, keeping: Callable[[str], ResultsKept]
) -> Stores:
    """What keeps results in the place that ``settings`` name, and lets go of them as they and ``keeping`` say; uploads too."""
    bucket = Bucket(place(settings.storage_url, settings.outputs, settings.storage_endpoint), log)
    known = SqlAssets(database)
    # Where nobody else asks the database, or reads the files by their paths.
    alone = not database.postgres and not bucket.remote and settings.cdn_base_url is None
    behind = WriteBehind(known, clock, log) if alone else None
    rows: AssetRepository = behind or known
    uploads, kept = SqlUploads(database), Retention(settings.assets_hours * 3600, settings.assets_bytes, MOST_UPLOADS)
    # In a bucket other servers are to find them too; a folder needs no rows.
    shelves = [UploadShelf(uploads, bucket, clock, seconds=kept.seconds)] if bucket.remote else []
    collector = Collector(rows, bucket, clock, log, budget=settings.outputs_bytes, keeping=keeping, shelves=shelves)
    inputs: InputStore = InputFolder(settings.assets, kept, clock)
    if bucket.remote:
        inputs = SharedInputs(uploads, bucket, kept, clock, deleted=collector.look)
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
    return Stores(store, bucket, collector, links, inputs, behind)
