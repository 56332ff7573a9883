"""Indexes of jobs and messages by their age: what is old enough to be forgotten is looked for every few seconds."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the indexes."""
    op.create_index("ix_jobs_finished", "jobs", ["finished"])
    op.create_index("ix_webhooks_created", "webhooks", ["created"])


def downgrade() -> None:
    """Drop the indexes."""
    op.drop_index("ix_webhooks_created", "webhooks")
    op.drop_index("ix_jobs_finished", "jobs")
