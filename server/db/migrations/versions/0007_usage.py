"""Money held, money spent, what it was spent on, and images granted."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "holds",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("upstream", sa.String(128), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("usd", sa.Float, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease", sa.Float, nullable=False),
    )
    op.create_index("ix_holds_lease", "holds", ["lease"])
    op.create_table(
        "purses",
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("upstream", sa.String(128), primary_key=True),
        sa.Column("spent", sa.Float, nullable=False),
        sa.Column("held", sa.Float, nullable=False),
        sa.Column("told", sa.Integer, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("road", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("usd", sa.Float, nullable=False),
        sa.Column("unconfirmed_usd", sa.Float, nullable=False),
        sa.Column("gpu_seconds", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("input_text_tokens", sa.BigInteger, nullable=False),
        sa.Column("input_image_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("images", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("quotas", "usage", "purses", "holds"):
        op.drop_table(table)
