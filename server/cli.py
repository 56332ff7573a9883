"""The ``aquatint`` command."""

import asyncio
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from server.settings import OPTIONS, Settings, SettingsError, parse


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("aquatint"), prog_name="aquatint")
def main() -> None:
    """Serve Stable Diffusion models to OpenAI's clients."""


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` a flag for each setting that has one."""
    for option in reversed(OPTIONS):
        if option.flag is not None:
            text = f"{option.help} [{option.variable}]"
            command = click.option(option.flag, option.field, help=text, is_flag=option.switch, default=None)(command)
    return command


@main.command()
@settings_options
def serve(**flags: Any) -> None:
    """Start the server and its workers."""
    settings = _settings(flags)
    # Late, so that --help and --version answer at once.
    from server.app import run  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415

    try:
        asyncio.run(run(settings))
    except CatalogError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        msg = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        raise click.ClickException(msg) from None


@main.group()
def models() -> None:
    """Look at models.yaml."""


@models.command("list")
@settings_options
def list_models(**flags: Any) -> None:
    """Check models.yaml and print what it offers."""
    from server.catalog.loading import load  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415

    try:
        catalog = load(_settings(flags).models)
    except CatalogError as error:
        raise click.ClickException(str(error)) from None
    for card in catalog.cards.values():
        names = [alias for alias, target in catalog.aliases.items() if target == card.id]
        marks = " (default)" if card.id == catalog.default_model else ""
        click.echo(f"{card.id}{marks}\t{card.family.value}\t{card.source}\t{' '.join(names)}")


def _settings(flags: dict[str, Any]) -> Settings:
    given = {field: str(value) for field, value in flags.items() if value is not None}
    try:
        return parse(os.environ, given, cwd=Path.cwd())
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
