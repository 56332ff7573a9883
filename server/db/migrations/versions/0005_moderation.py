"""What moderation decided."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "moderation_audit",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("categories", sa.JSON, nullable=False),
        sa.Column("scores", sa.JSON, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("image", sa.Integer),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("prompt", sa.Text),
    )
    op.create_index("ix_moderation_audit_time", "moderation_audit", ["time", "id"])
    op.create_index("ix_moderation_audit_tenant", "moderation_audit", ["tenant", "time", "id"])
    op.create_table(
        "moderation_allowed",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("stage", sa.String(16), primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("moderation_allowed")
    op.drop_table("moderation_audit")
