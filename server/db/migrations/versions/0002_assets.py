"""Assets, and the blobs that they share."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("path", sa.String(256), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.UniqueConstraint("path", name="uq_blobs_path"),
    )
    op.create_index("ix_blobs_state", "blobs", ["state", "created"])
    ready = sa.text("state = 'ready'")
    op.create_index("uq_blobs_content", "blobs", ["tenant", "digest"], unique=True, sqlite_where=ready, postgresql_where=ready)
    op.create_table(
        "assets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("blob", sa.String(32), sa.ForeignKey("blobs.id", name="fk_assets_blob_blobs"), nullable=False),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("seed", sa.String(20), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_assets_blob", "assets", ["blob"])
    op.create_index("ix_assets_expires", "assets", ["expires"])
    op.create_index("ix_assets_created", "assets", ["created"])
    op.create_index("ix_assets_tenant", "assets", ["tenant", "created"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("assets")
    op.drop_table("blobs")
