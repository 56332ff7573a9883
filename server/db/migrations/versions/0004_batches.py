"""Batches, and requests with an Idempotency-Key."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; jobs know their batch."""
    op.add_column("jobs", sa.Column("batch", sa.String(64)))
    op.create_index("ix_jobs_batch", "jobs", ["batch", "state"])
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("touched", sa.Float, nullable=False),
        sa.Column("finished", sa.Float),
        sa.Column("lines", sa.Integer, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("notify", sa.LargeBinary),
    )
    op.create_index("ix_batches_tenant", "batches", ["tenant", "created", "id"])
    op.create_index("ix_batches_state", "batches", ["state", "touched"])
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("custom_id", sa.String(256), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("work", sa.Float, nullable=False),
        sa.Column("wanted", sa.LargeBinary),
        sa.Column("ended", sa.LargeBinary),
    )
    op.create_index("ix_batch_lines_state", "batch_lines", ["batch_id", "state", "number"])
    op.create_table(
        "batch_inputs",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease", sa.Float),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("answer", sa.LargeBinary),
    )
    op.create_index("ix_idempotency_created", "idempotency", ["created"])
    op.create_index("ix_idempotency_lease", "idempotency", ["owner"])


def downgrade() -> None:
    """Drop the tables."""
    for name in ("idempotency", "batch_inputs", "batch_lines", "batches"):
        op.drop_table(name)
    op.drop_index("ix_jobs_batch", "jobs")
    op.drop_column("jobs", "batch")
