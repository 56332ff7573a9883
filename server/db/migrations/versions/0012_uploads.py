"""Uploads that lie in a bucket."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_READY = sa.text("state = 'ready'")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "uploads",
        sa.Column("path", sa.String(256), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("used", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
    )
    op.create_index("ix_uploads_state", "uploads", ["state", "used"])
    op.create_index("ix_uploads_tenant", "uploads", ["tenant", "state", "used"])
    op.create_index("uq_uploads_id", "uploads", ["tenant", "id"], unique=True, sqlite_where=_READY, postgresql_where=_READY)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("uploads")
