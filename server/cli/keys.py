"""``aquatint keys``: who may use this server."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from msgspec.structs import replace

from server.cli.opened import in_database
from server.cli.options import database_options
from server.domain.key import Key, Scope

T = TypeVar("T")

_DURATION = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Seconds of ``30d``, ``12h``, ``15m`` or ``90s``."""
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        msg = f"{text!r} is no duration such as 90s, 15m, 12h or 30d"
        raise click.BadParameter(msg)
    return float(int(found[1]) * _UNITS[found[2]])


@click.group()
def keys() -> None:
    """Create, list, revoke and rotate API keys; a server that runs knows of it within a second."""


@keys.command()
@click.option("--tenant", default="local", show_default=True, help="Whose jobs and pictures it opens.")
@click.option("--name", default="", help="A note for yourself.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice([scope.value for scope in Scope]), help="[default: generate]")
@click.option("--model", "models", multiple=True, help="Only this model (repeat for more). [default: all]")
@click.option("--expires-in", callback=_seconds, help="Such as 30d. [default: never]")
@database_options
def create(scopes: tuple[str, ...], models: tuple[str, ...], expires_in: float | None, **flags: Any) -> None:
    """Make a key and print its secret, which nobody can show again."""
    now, tenant, name = time.time(), flags.pop("tenant"), flags.pop("name")
    key = Key(
        id=f"key_{secrets.token_hex(6)}",
        tenant=tenant,
        name=name,
        scopes=tuple(Scope(scope) for scope in scopes) or (Scope.GENERATE,),
        created=now,
        models=models,
        expires=None if expires_in is None else now + expires_in,
    )
    click.echo(_add(flags, key))


@keys.command("list")
@database_options
def list_keys(**flags: Any) -> None:
    """Print every key: id, state, tenant, scopes, models, expiry, name."""
    now = time.time()
    for key in _run(flags, lambda repository: repository.all()):
        state = "revoked" if key.revoked is not None else "live" if key.live(now) else "expired"
        expires = "never" if key.expires is None else datetime.fromtimestamp(key.expires, tz=UTC).isoformat(timespec="seconds")
        models = ",".join(key.models) or "all"
        click.echo("\t".join((key.id, state, key.tenant, ",".join(key.scopes), models, expires, key.name or "-")))


@keys.command()
@click.argument("key")
@database_options
def revoke(key: str, **flags: Any) -> None:
    """Have KEY (an id that `list` prints) open nothing any more."""
    if not _run(flags, lambda repository: repository.revoke(key, time.time())):
        msg = f"there is no live key {key}"
        raise click.ClickException(msg)


@keys.command()
@click.argument("key")
@click.option("--grace", default="24h", show_default=True, callback=_seconds, help="How long the old secret still works.")
@database_options
def rotate(key: str, grace: float, **flags: Any) -> None:
    """Make a key like KEY and print its secret; KEY itself expires after a time of grace."""
    now = time.time()
    old: Key | None = _run(flags, lambda repository: repository.get(key))
    if old is None or not old.live(now):
        msg = f"there is no live key {key}"
        raise click.ClickException(msg)
    secret = _add(flags, replace(old, id=f"key_{secrets.token_hex(6)}", created=now))
    _run(flags, lambda repository: repository.expire(key, min(now + grace, old.expires or now + grace)))
    click.echo(secret)


def _add(flags: dict[str, Any], key: Key) -> str:
    from server.access.keys import digest, new_secret  # noqa: PLC0415

    secret = new_secret()
    _run(flags, lambda repository: repository.add(key, digest(secret)))
    return secret


def _run(flags: dict[str, Any], work: Callable[[Any], Awaitable[T]]) -> T:
    from server.db.keys import SqlKeys  # noqa: PLC0415

    return in_database(flags, lambda database, _revisions: work(SqlKeys(database)))
