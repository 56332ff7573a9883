"""A whole server, from its settings to its end."""

from litestar import Litestar
from structlog.typing import FilteringBoundLogger

from server.api.serve import serve
from server.app.application import application
from server.app.exposure import check_exposure
from server.app.parts import assemble
from server.app.signing import check_signing
from server.db.migrating import migrate
from server.settings import Settings
from server.telemetry.logs import configure, silent


def build(settings: Settings, log: FilteringBoundLogger | None = None) -> Litestar:
    """The application for ``settings``, for whoever brings a server of their own."""
    return application(assemble(settings, log or silent()))


async def run(settings: Settings) -> None:
    """Run the whole server until it is told to stop."""
    log = configure(settings.log_format, settings.log_level)
    parts = assemble(settings, log)
    # Before anything is listened on or loaded, so that what is wrong is said in one line.
    await migrate(parts.database)
    await parts.bucket.check()
    await check_exposure(parts)
    await check_signing(parts.signer)
    await serve(
        application(parts),
        parts.jobs,
        host=settings.host,
        port=settings.port,
        drain_seconds=settings.drain_seconds,
        log=log,
    )
