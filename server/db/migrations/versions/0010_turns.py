"""Tenants take turns in the queue."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_WAITING = sa.text("state = 'queued'")
_AT_ONCE = 1000


def upgrade() -> None:
    """Number what waits, and make the indexes that begin with it."""
    op.add_column("jobs", sa.Column("turn", sa.BigInteger))
    jobs = sa.table("jobs", *(sa.column(name) for name in ("id", "state", "priority", "tenant", "created", "images", "turn")))
    before = (
        sa.func.sum(jobs.c.images).over(partition_by=[jobs.c.priority, jobs.c.tenant], order_by=[jobs.c.created, jobs.c.id])
        - jobs.c.images
    )
    connection = op.get_bind()
    rows = connection.execute(sa.select(jobs.c.id.label("which"), before.label("place")).where(jobs.c.state == "queued"))
    places = [{"which": row.which, "place": int(row.place)} for row in rows]
    change = jobs.update().where(jobs.c.id == sa.bindparam("which")).values(turn=sa.bindparam("place"))
    for start in range(0, len(places), _AT_ONCE):
        connection.execute(change, places[start : start + _AT_ONCE])
    op.drop_index("ix_jobs_next", "jobs")
    op.create_index("ix_jobs_next", "jobs", ["state", "priority", "turn", "created", "id"])
    op.create_index("ix_jobs_turns", "jobs", ["tenant", "priority", "turn"], sqlite_where=_WAITING, postgresql_where=_WAITING)


def downgrade() -> None:
    """By age alone."""
    op.drop_index("ix_jobs_turns", "jobs")
    op.drop_index("ix_jobs_next", "jobs")
    op.create_index("ix_jobs_next", "jobs", ["state", "priority", "created", "id"])
    op.drop_column("jobs", "turn")
