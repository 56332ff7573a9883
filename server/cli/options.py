"""Settings as flags of commands."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import UnknownModel
from server.cli.settings import OPTIONS, parse
from server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from server.cli.downloads import Wanted


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` a flag for each setting that has one."""
    return _options(command, frozenset(option.field for option in OPTIONS))


def catalog_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the flags that say which models.yaml and which devices."""
    return _options(command, frozenset({"models", "devices"}))


def database_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the flags that say which database."""
    return _options(command, frozenset({"home", "database_url"}))


def storage_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the flags that say which results, and for how long they are kept."""
    named = {"home", "models", "database_url", "storage_url", "storage_endpoint", "outputs_hours", "outputs_bytes"}
    return _options(command, frozenset(named))


def provenance_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the flags that say where certificates are, and which are trusted."""
    return _options(command, frozenset({"home", "provenance_trust"}))


def settings_from(flags: dict[str, Any]) -> Settings:
    """The settings of the environment and ``flags``; a wrong one ends the command."""
    given = {field: str(value) for field, value in flags.items() if value is not None}
    try:
        return parse(os.environ, given, cwd=Path.cwd())
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def cards_from(flags: dict[str, Any], names: tuple[str, ...]) -> list[ModelCard]:
    """The cards called ``names`` (ids or aliases) in models.yaml; a wrong file or name ends the command."""
    # Late, so that --help and --version answer at once.
    from server.catalog.loading import load  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415

    try:
        catalog = load(settings_from(flags).models)
        return [catalog.card(name) for name in names]
    except CatalogError as error:
        raise click.ClickException(str(error)) from None
    except UnknownModel as error:
        raise click.ClickException(error.message) from None


def wanted_from(flags: dict[str, Any], names: tuple[str, ...]) -> "list[Wanted]":
    """What there is to download for the entries called ``names`` in models.yaml, or for all; as `cards_from` for mistakes."""
    from server.catalog.loading import load  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415
    from server.cli.downloads import everything, wanted  # noqa: PLC0415

    try:
        catalog = load(settings_from(flags).models)
        return [wanted(catalog, name) for name in names] if names else list(everything(catalog))
    except CatalogError as error:
        raise click.ClickException(str(error)) from None
    except UnknownModel as error:
        raise click.ClickException(error.message) from None


def _options(command: Callable[..., None], fields: frozenset[str]) -> Callable[..., None]:
    for option in reversed(OPTIONS):
        if option.flag is not None and option.field in fields:
            text = f"{option.help} [{option.variable}]"
            command = click.option(option.flag, option.field, help=text, is_flag=option.switch, default=None)(command)
    return command
