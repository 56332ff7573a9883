"""``aquatint models``: what models.yaml offers, and getting its weights in order; what needs torch runs in child processes."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from pipelines.contract.adapters import ControlCard, LoraCard, PreprocessorCard, ReferenceCard, UpscalerCard
from server.cli.options import cards_from, catalog_options, settings_from, settings_options, wanted_from
from server.domain.generation import AUTO

_GIB = 1 << 30


@click.group()
def models() -> None:
    """Look at models.yaml, check, fetch and convert models."""


@models.command("list")
@settings_options
def list_models(**flags: Any) -> None:
    """Check models.yaml and print what it offers."""
    from server.catalog.loading import load  # noqa: PLC0415
    from server.catalog.positions import CatalogError  # noqa: PLC0415

    try:
        catalog = load(settings_from(flags).models, os.environ)
    except CatalogError as error:
        raise click.ClickException(str(error)) from None
    for card in catalog.cards.values():
        names = [alias for alias, target in catalog.aliases.items() if target == card.id]
        marks = " (default)" if card.id == catalog.default_model else ""
        click.echo(f"{card.id}{marks}\t{card.family.value}\t{card.source}\t{' '.join(names)}")
    chosen = [alias for alias, target in catalog.aliases.items() if target == AUTO]
    if chosen:
        click.echo(f"{AUTO}\t\tthe server chooses\t{' '.join(chosen)}")
    fitting: dict[str, Iterable[LoraCard | ControlCard | ReferenceCard]] = {
        "loras": catalog.loras.values(),
        "controlnets": catalog.controlnets.values(),
        "ip_adapters": catalog.ip_adapters.values(),
    }
    for section, cards in fitting.items():
        for each in cards:
            click.echo(f"{section}.{each.name}\t{each.family.value}\t{each.source}\t")
    for upstream in catalog.upstreams.values():
        why = f"{upstream.key_env} is not set" if upstream.enabled else "not enabled"
        state = upstream.model if upstream.on else f"off: {why}"
        click.echo(f"upstreams.{upstream.name}\t{upstream.kind.value}\t{upstream.base_url}\t{state}")
    anywhere: dict[str, Iterable[UpscalerCard | PreprocessorCard]] = {
        "upscalers": catalog.upscalers.values(),
        "preprocessors": catalog.preprocessors.values(),
    }
    for section, listed in anywhere.items():
        for anyones in listed:
            click.echo(f"{section}.{anyones.name}\tany\t{anyones.source}\t")


@models.command()
@click.argument("model")
@catalog_options
def show(model: str, **flags: Any) -> None:
    """Print MODEL's whole card, with every default that models.yaml leaves out."""
    (card,) = cards_from(flags, (model,))
    click.echo(msgspec.yaml.encode(card).decode(), nl=False)


@models.command()
@click.argument("model")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The picture's file. [default: MODEL.png]")
@click.option("--prompt", default="a lighthouse on a cliff at dawn", show_default=True, help="What to draw.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1))
@catalog_options
def check(model: str, out: Path | None, prompt: str, seed: int, **flags: Any) -> None:
    """Load MODEL in a worker of its own and make one picture with its defaults."""
    from server.cli.checking import CheckFailed, check_model  # noqa: PLC0415
    from server.fleet.devices import count_cuda, resolve  # noqa: PLC0415

    (card,) = cards_from(flags, (model,))
    settings = settings_from(flags)
    device = resolve(settings.devices, lambda: count_cuda(os.environ))[0]
    target = out or Path(f"{card.id.replace('/', '-')}.png")
    try:
        asyncio.run(check_model(card, device, prompt=prompt, seed=seed, target=target, say=click.echo))
    except CheckFailed as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        msg = f"{target} cannot be written: {error.strerror or error}"
        raise click.ClickException(msg) from None


@models.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every entry of models.yaml.")
@catalog_options
def pull(names: tuple[str, ...], everything: bool, **flags: Any) -> None:  # noqa: FBT001 - click calls it by name
    """Download what entries of models.yaml name as hf:, and check its checksums; later starts need no network.

    NAME is a model's id, or a section and a name, as `aquatint models list` prints them: loras.ink, controlnets.canny.
    """
    if bool(names) == everything:
        msg = "name what to download, or say --all"
        raise click.UsageError(msg)
    failed = False
    # The variable is there to forbid what nobody asked for; this was asked for.
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    for entry in wanted_from(flags, names):
        if not entry.downloads:
            click.echo(f"{entry.name}: nothing to download, its sources are on this machine.")
        for arguments in entry.downloads:
            command = [sys.executable, "-m", "pipelines.families.pull", *arguments]
            child = subprocess.run(  # noqa: S603 - our own module
                command, stdout=subprocess.PIPE, text=True, check=False, env=environment
            )
            told = _answer(child.stdout)
            if "path" in told:
                click.echo(f"{entry.name}: {told['files']} files, {told['bytes'] / _GIB:.2f} GiB, checked: {told['path']}")
            else:
                failed = True
                click.echo(f"{entry.name}: {told.get('error', f'the download ended with code {child.returncode}')}", err=True)
    if failed:
        raise SystemExit(1)


@models.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
def convert(source: Path, target: Path) -> None:
    """Write the tensors of the pickled checkpoint IN to the safetensors file OUT, running none of its code."""
    command = [sys.executable, "-m", "pipelines.families.convert", str(source), str(target)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if child.returncode != 0:
        raise click.ClickException(child.stderr.strip() or f"the conversion ended with code {child.returncode}")
    click.echo(child.stdout, nl=False)


def _answer(output: str) -> dict[str, Any]:
    """The last line, which is JSON if the program came to its end."""
    lines = output.splitlines()
    try:
        told = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
