"""The tables. A change here needs a migration in `server/db/migrations`."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

METADATA = MetaData(
    # Named, so that migrations can name them too.
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("durable", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("model", String(256), nullable=False),
    Column("images", Integer, nullable=False),
    Column("work", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("finished", Float),
    Column("deadline", Float),
    Column("owner", String(64)),
    Column("lease", Float),
    Column("batch", String(64)),
    Column("turn", BigInteger),
    Column("record", LargeBinary, nullable=False),
    # For what is next, for where a tenant's queue ends, for the pages of a tenant's jobs, for leases, for what is old.
    Index("ix_jobs_next", "state", "priority", "turn", "created", "id"),
    Index(
        "ix_jobs_turns",
        "tenant",
        "priority",
        "turn",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    Index("ix_jobs_tenant", "tenant", "created", "id"),
    Index("ix_jobs_lease", "state", "lease"),
    Index("ix_jobs_batch", "batch", "state"),
    Index("ix_jobs_finished", "finished"),
)
"""One row per job. ``record`` is the whole `server.domain.job.Job` as msgpack, without pictures; the columns are what is searched
by. Times are Unix seconds. ``turn`` is that of jobs that came into the queue, see `server.db.turns`."""

WEBHOOKS = Table(
    "webhooks",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("url", String(2048), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("outcome", String(512), nullable=False),
    Index("ix_webhooks_due", "state", "due"),
    Index("ix_webhooks_job", "job_id"),
    Index("ix_webhooks_created", "created"),
)
"""The outbox: `server.domain.webhook.Delivery`, a row each."""

KEYS = Table(
    "keys",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("tenant", String(128), nullable=False),
    Column("name", String(256), nullable=False),
    Column("scopes", String(256), nullable=False),
    Column("models", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("revoked", Float),
)
"""`server.domain.key.Key`, a row each, and the digest of its secret."""

DECISIONS = Table(
    "moderation_audit",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("time", Float, nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("job", String(64), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("by", String(64), nullable=False),
    Column("action", String(16), nullable=False),
    Column("categories", JSON, nullable=False),
    Column("scores", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("image", Integer),
    Column("digest", String(64), nullable=False),
    Column("prompt", Text),
    # For the pages, of all tenants and of one, and for what is past its time.
    Index("ix_moderation_audit_time", "time", "id"),
    Index("ix_moderation_audit_tenant", "tenant", "time", "id"),
)
"""`server.domain.decision.Decision`, a row each: everything but what was simply let pass."""

ALLOWED = Table(
    "moderation_allowed",
    METADATA,
    Column("day", String(10), primary_key=True),
    Column("tenant", String(128), primary_key=True),
    Column("stage", String(16), primary_key=True),
    Column("count", BigInteger, nullable=False),
)
"""How often moderation let something pass, by day (UTC), tenant and stage."""

INPUTS = Table(
    "job_inputs",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("order", LargeBinary, nullable=False),
)
"""The whole order of a job that is not over and has input pictures: compressed msgpack."""

BLOBS = Table(
    "blobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("path", String(256), nullable=False, unique=True),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Index("ix_blobs_state", "state", "created"),
    # Equal bytes of one tenant are stored once, whoever was quicker.
    Index(
        "uq_blobs_content",
        "tenant",
        "digest",
        unique=True,
        sqlite_where=text("state = 'ready'"),
        postgresql_where=text("state = 'ready'"),
    ),
)
"""`server.domain.stored.Blob`, a row each, and its state."""

ASSETS = Table(
    "assets",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("blob", String(32), ForeignKey("blobs.id"), nullable=False),
    Column("format", String(8), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("seed", String(20), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Index("ix_assets_blob", "blob"),
    Index("ix_assets_expires", "expires"),
    Index("ix_assets_created", "created"),
    Index("ix_assets_tenant", "tenant", "created"),
    Index("ix_assets_job", "job_id", "tenant"),
)
"""`server.domain.stored.Stored`, a row each. Seeds are text: they have 64 bits without a sign."""

UPLOADS = Table(
    "uploads",
    METADATA,
    Column("path", String(256), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("id", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("used", Float, nullable=False),
    Column("state", String(16), nullable=False),
    # For what is unused or was cut off, and for how much a tenant has.
    Index("ix_uploads_state", "state", "used"),
    Index("ix_uploads_tenant", "tenant", "state", "used"),
    # An id leads to one file, whoever was quicker.
    Index(
        "uq_uploads_id",
        "tenant",
        "id",
        unique=True,
        sqlite_where=text("state = 'ready'"),
        postgresql_where=text("state = 'ready'"),
    ),
)
"""`server.domain.upload.Upload`, a row each, and its state."""

CACHE = Table(
    "cache",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("loose", String(64), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("used", Float, nullable=False),
    Column("record", LargeBinary, nullable=False),
    # For requests that take any seed, and for what goes first.
    Index("ix_cache_loose", "loose", "used"),
    Index("ix_cache_used", "used"),
    Index("ix_cache_created", "created"),
)
"""`server.domain.caching.Kept`, a row each, as msgpack in ``record``."""

UPSTREAM_REQUESTS = Table(
    "upstream_requests",
    METADATA,
    Column("id", String(96), primary_key=True),
    Column("road", String(64), primary_key=True),
    Column("begun", Float, nullable=False),
    Index("ix_upstream_requests_begun", "begun"),
)
"""Requests of durable jobs that were sent to an upstream and may have been charged."""

HOLDS = Table(
    "holds",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("upstream", String(128), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("usd", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("lease", Float, nullable=False),
    Index("ix_holds_lease", "lease"),
)
"""`server.domain.spending.Hold`, a row for each whose fate is open."""

PURSES = Table(
    "purses",
    METADATA,
    Column("month", String(7), primary_key=True),
    Column("tenant", String(128), primary_key=True),
    Column("upstream", String(128), primary_key=True),
    Column("spent", Float, nullable=False),
    Column("held", Float, nullable=False),
    Column("told", Integer, nullable=False),
)
"""What was spent and is held in each month, of each tenant and of all (empty), on each upstream and on all (empty).
``told`` is the threshold of which somebody was told last, in per cent."""

USAGE = Table(
    "usage",
    METADATA,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tenant", String(128), primary_key=True),
    Column("road", String(128), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("images", Integer, nullable=False),
    Column("usd", Float, nullable=False),
    Column("unconfirmed_usd", Float, nullable=False),
    Column("gpu_seconds", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("input_text_tokens", BigInteger, nullable=False),
    Column("input_image_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
)
"""`server.domain.spending.UsageRow`: sums, a row for each day, tenant, road and model."""

QUOTAS = Table(
    "quotas",
    METADATA,
    Column("tenant", String(128), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("images", Integer, nullable=False),
)
"""Images granted to each tenant on each day (days since 1970-01-01, UTC)."""

BATCHES = Table(
    "batches",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("touched", Float, nullable=False),
    Column("finished", Float),
    Column("lines", Integer, nullable=False),
    Column("images", Integer, nullable=False),
    Column("notify", LargeBinary),
    Index("ix_batches_tenant", "tenant", "created", "id"),
    Index("ix_batches_state", "state", "touched"),
)
"""`server.domain.batch.Batch`, a row each. ``touched``: when lines came in, or became jobs, for the last time."""

BATCH_LINES = Table(
    "batch_lines",
    METADATA,
    Column("batch_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", String(256), nullable=False),
    Column("state", String(16), nullable=False),
    Column("images", Integer, nullable=False),
    Column("work", Float, nullable=False),
    Column("wanted", LargeBinary),
    Column("ended", LargeBinary),
    Index("ix_batch_lines_state", "batch_id", "state", "number"),
)
"""``wanted`` is the order until it is a job: compressed msgpack, without pictures. ``ended`` is what became of it, so that
results outlive jobs."""

BATCH_INPUTS = Table(
    "batch_inputs",
    METADATA,
    Column("batch_id", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""The pictures of a batch as they were sent, each once however many lines name it, until the batch is over."""

IDEMPOTENCY = Table(
    "idempotency",
    METADATA,
    Column("tenant", String(128), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("resource", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("owner", String(64)),
    Column("lease", Float),
    Column("size", Integer, nullable=False),
    Column("answer", LargeBinary),
    Index("ix_idempotency_created", "created"),
    Index("ix_idempotency_lease", "owner"),
)
"""Requests that were sent with an ``Idempotency-Key``: running as long as there is no ``answer``."""
