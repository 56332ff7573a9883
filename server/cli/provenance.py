"""``aquatint provenance``: certificates to sign pictures with, and reading what pictures say of their origin."""

from pathlib import Path
from typing import Any

import click

from server.cli.options import provenance_options, settings_from


@click.group()
def provenance() -> None:
    """Sign results with content credentials (C2PA), and read those of any picture."""


@provenance.command()
@click.option("--organisation", default="Aquatint", show_default=True, help="Who signs, as viewers will show it.")
@click.option("--years", type=click.IntRange(1, 20), default=10, show_default=True, help="How long the certificate is valid.")
@click.option("--renew", is_flag=True, help="Make a new certificate from the authority that is there.")
@provenance_options
def init(organisation: str, years: int, *, renew: bool, **flags: Any) -> None:
    """Make a private authority and a certificate from it; the server signs with them from its next start on."""
    from server.storage.provenance.credentials import AUTHORITY, AUTHORITY_KEY, CERTIFICATE, BadCredentials  # noqa: PLC0415
    from server.storage.provenance.issuing import issue  # noqa: PLC0415

    folder = settings_from(flags).provenance
    if (folder / CERTIFICATE).exists() and not renew:
        msg = f"{folder / CERTIFICATE} is there already; --renew replaces it, the authority stays."
        raise click.ClickException(msg)
    try:
        issue(folder, organisation, years)
    except BadCredentials as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        msg = f"{folder} cannot be written to: {error.strerror or error}"
        raise click.ClickException(msg) from None
    click.echo(f"certificate\t{folder / CERTIFICATE}\tfor {years} years; the server signs with it from its next start on")
    click.echo(f"to trust\t{folder / AUTHORITY}\tgive this to whoever checks your pictures; others see an unknown signer")
    click.echo(f"keep away\t{folder / AUTHORITY_KEY}\tonly --renew needs it: move it off this machine")


@provenance.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@provenance_options
def check(file: Path, *, as_json: bool, **flags: Any) -> None:
    """Read the content credentials of FILE; the exit code is 0 only if they are there and hold. Nothing is fetched."""
    import msgspec  # noqa: PLC0415

    from server.storage.kinds import media_type  # noqa: PLC0415
    from server.storage.provenance.credentials import BadCredentials, anchors  # noqa: PLC0415
    from server.storage.provenance.reading import Inspector  # noqa: PLC0415

    settings, data = settings_from(flags), file.read_bytes()
    kind = media_type(data)
    if kind is None:
        msg = f"{file} is no PNG, JPEG, WebP, GIF or AVIF."
        raise click.ClickException(msg)
    try:
        found = Inspector(anchors(settings.provenance_trust, settings.provenance)).read(data, kind)
    except BadCredentials as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _show(found)
    raise SystemExit(0 if found.state in ("trusted", "valid") else 1)


def _show(found: Any) -> None:
    click.echo(f"state\t{found.state}")
    for name in ("issuer", "generator", "model", "generated_at"):
        if getattr(found, name) is not None:
            click.echo(f"{name}\t{getattr(found, name)}")
    if found.state != "not_present":
        click.echo(f"ai_generated\t{'yes' if found.ai_generated else 'no'}")
    for action in found.actions:
        click.echo(f"action\t{action}")
    for part in found.ingredients:
        click.echo(f"ingredient\t{part.title}\t{part.relation}\t{'with' if part.manifest else 'without'} a manifest")
    for problem in found.problems:
        click.echo(f"problem\t{problem}")
