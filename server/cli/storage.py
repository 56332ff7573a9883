"""``aquatint storage``: what is stored, and letting go of what need not be."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from server.cli.opened import in_database
from server.cli.options import settings_from, storage_options

T = TypeVar("T")


@click.group()
def storage() -> None:
    """Look at stored results, and collect what is over."""


@storage.command()
@storage_options
def status(**flags: Any) -> None:
    """Print what each tenant has stored: name, results, bytes (equal results counted once)."""
    for holding in _run(flags, lambda collector: collector.holdings()):
        click.echo("\t".join((holding.tenant, str(holding.assets), str(holding.bytes))))


@storage.command()
@storage_options
def collect(**flags: Any) -> None:
    """Let go of results that are over their time or too many, and of a bucket's unused uploads, as servers do once a minute."""
    done = _run(flags, lambda collector: collector.collect())
    click.echo(f"{done.assets} results and {done.uploads} uploads let go, {done.files} files deleted, {done.bytes} bytes")
    _all(done.failed)


@storage.command()
@click.option("--delete", is_flag=True, help="Delete them.")
@storage_options
def strays(*, delete: bool, **flags: Any) -> None:
    """Count files that the database does not know, as after it was restored from a copy."""
    found = _run(flags, lambda collector: collector.strays(delete=delete))
    click.echo(f"{found.files} stray files {'deleted' if delete else 'found'}, {found.bytes} bytes")
    _all(found.failed)


def _all(failed: int) -> None:
    """End with an error if some files are still there."""
    if failed:
        msg = f"{failed} files could not be deleted"
        raise click.ClickException(msg)


def _run(flags: dict[str, Any], work: Callable[[Any], Awaitable[T]]) -> T:
    settings = settings_from(flags)
    from server.app import storage as parts  # noqa: PLC0415
    from server.catalog.loading import load  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415
    from server.domain.clock import SystemClock  # noqa: PLC0415
    from server.telemetry.logs import silent  # noqa: PLC0415

    try:
        catalog = load(settings.models)
    except CatalogError as error:
        raise click.ClickException(str(error)) from None

    async def inside(database: Any, _revisions: object) -> T:
        made = parts(settings, database, SystemClock(), silent(), lambda tenant: catalog.policy(tenant).storage)
        try:
            return await work(made.collector)
        finally:
            made.bucket.close()

    return in_database(flags, inside)
