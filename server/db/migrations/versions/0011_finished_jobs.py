"""An index of jobs by their end: what is old enough to be forgotten is looked for every few seconds."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_jobs_finished", "jobs", ["finished"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("ix_jobs_finished", "jobs")
