"""The tables. A change here needs a migration in `server/db/migrations`."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

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
    Column("record", LargeBinary, nullable=False),
    # For what is next, for the pages of a tenant's jobs, and for the leases that have run out.
    Index("ix_jobs_next", "state", "priority", "created", "id"),
    Index("ix_jobs_tenant", "tenant", "created", "id"),
    Index("ix_jobs_lease", "state", "lease"),
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
