"""Alembic's entry: migrations run over the connection that `server.db.migrating` holds."""

from alembic import context

from server.db.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite cannot alter much in place
)
context.run_migrations()
