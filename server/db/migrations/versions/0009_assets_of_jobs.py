"""An index of results by their jobs, which are deleted with all that they have made."""

from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_assets_job", "assets", ["job_id", "tenant"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("ix_assets_job", "assets")
