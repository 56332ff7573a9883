"""The tables. A change here needs a migration in `server/db/migrations`."""

from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

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
    Column("record", LargeBinary, nullable=False),
    # For what is next, for the pages of a tenant's jobs, and for the leases that have run out.
    Index("ix_jobs_next", "state", "priority", "created", "id"),
    Index("ix_jobs_tenant", "tenant", "created", "id"),
    Index("ix_jobs_lease", "state", "lease"),
    Index("ix_jobs_batch", "batch", "state"),
)
"""One row per job. ``record`` is the whole `server.domain.job.Job` as msgpack, without pictures; the columns are what is searched
by. Times are Unix seconds."""

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

INPUTS = Table(
    "job_inputs",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("order", LargeBinary, nullable=False),
)
"""The whole order of a job that is not over and has input pictures: compressed msgpack."""

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
