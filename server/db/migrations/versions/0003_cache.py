"""Pictures that answered a request, for the next one like it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "cache",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("loose", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("used", sa.Float, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_cache_loose", "cache", ["loose", "used"])
    op.create_index("ix_cache_used", "cache", ["used"])
    op.create_index("ix_cache_created", "cache", ["created"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("cache")
