"""Requests of durable jobs that were sent to an upstream and may have been charged."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "upstream_requests",
        sa.Column("id", sa.String(96), primary_key=True),
        sa.Column("road", sa.String(64), primary_key=True),
        sa.Column("begun", sa.Float, nullable=False),
    )
    op.create_index("ix_upstream_requests_begun", "upstream_requests", ["begun"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("upstream_requests")
