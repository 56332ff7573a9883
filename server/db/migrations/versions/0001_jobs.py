"""Jobs, their inputs, the outbox, and keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("durable", sa.Boolean, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("work", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("finished", sa.Float),
        sa.Column("deadline", sa.Float),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease", sa.Float),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_jobs_next", "jobs", ["state", "priority", "created", "id"])
    op.create_index("ix_jobs_tenant", "jobs", ["tenant", "created", "id"])
    op.create_index("ix_jobs_lease", "jobs", ["state", "lease"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("due", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(512), nullable=False),
    )
    op.create_index("ix_webhooks_due", "webhooks", ["state", "due"])
    op.create_index("ix_webhooks_job", "webhooks", ["job_id"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("scopes", sa.String(256), nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float),
        sa.Column("revoked", sa.Float),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
    )
    op.create_table(
        "job_inputs",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("order", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("job_inputs")
    op.drop_table("keys")
    op.drop_table("webhooks")
    op.drop_table("jobs")
