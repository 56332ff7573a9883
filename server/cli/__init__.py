"""The ``aquatint`` command."""

from importlib.metadata import version
from typing import Any

import click

from server.cli.database import db
from server.cli.keys import keys
from server.cli.models import models
from server.cli.moderation import moderation
from server.cli.options import settings_from, settings_options
from server.cli.provenance import provenance
from server.cli.storage import storage
from server.cli.told import Told
from server.cli.usage import usage
from server.cli.webhooks import webhooks


@click.group(cls=Told, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("aquatint"), prog_name="aquatint")
def main() -> None:
    """Serve Stable Diffusion models to OpenAI's clients."""


@main.command()
@settings_options
def serve(**flags: Any) -> None:
    """Start the server and its workers."""
    settings = settings_from(flags)
    # Late, so that --help and --version answer at once.
    import uvloop  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from server.app import Exposed, run  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415
    from server.db.migrating import NewerDatabase  # noqa: PLC0415
    from server.domain.failures import StorageFailure  # noqa: PLC0415
    from server.storage.provenance.credentials import BadCredentials  # noqa: PLC0415

    try:
        uvloop.run(run(settings))
    except (BadCredentials, CatalogError, Exposed, NewerDatabase) as error:
        raise click.ClickException(str(error)) from None
    except StorageFailure as error:
        msg = f"results cannot be stored: {error.__cause__ or error}".partition("\n")[0]
        raise click.ClickException(msg) from None
    except SQLAlchemyError as error:
        msg = f"the database cannot be used: {error}"
        raise click.ClickException(msg) from None
    except OSError as error:
        msg = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        raise click.ClickException(msg) from None


main.add_command(models)
main.add_command(db)
main.add_command(keys)
main.add_command(webhooks)
main.add_command(storage)
main.add_command(provenance)
main.add_command(moderation)
main.add_command(usage)
