"""From a card to the parts of its checkpoint, found, checked against the card, and still to be loaded."""

import json
from pathlib import Path
from typing import Any

import torch

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.family import Family
from pipelines.families import sources
from pipelines.families.detection import Detected
from pipelines.families.overrides import OverriddenParts, Replacement
from pipelines.families.parts import FolderParts, Parts
from pipelines.families.progress import Progress
from pipelines.families.single_file import SingleFileParts

_PIPELINES = (
    ("StableDiffusionXL", Family.SDXL),
    ("StableDiffusion3", Family.SD3),
    ("StableDiffusion", Family.SD),
    ("LatentConsistencyModel", Family.SD),
)
"""What diffusers' pipeline classes begin with, the longer names first."""


def open_parts(card: ModelCard, device: torch.device, dtype: torch.dtype, progress: Progress) -> Parts:
    """The parts of ``card``'s checkpoint with those that the card replaces.

    Raises `ModelLoadFailed` where a source is not there, is a pickle or damaged, or is not of the card's family.
    """
    named = _named(card)
    path = sources.locate(sources.parse(card.source, card.revision), progress, without=tuple(named))
    base: FolderParts | SingleFileParts
    if path.is_file():
        base = SingleFileParts(path, device, dtype, progress, prediction_type=card.schedule.prediction_type)
        _check_file(card, base.detected)
        base.scheduler_config()  # what it would refuse is refused before gigabytes are read
        configs = base.configs
    else:
        configs = sources.checked(path)
        _check_folder(card, configs)
        base = FolderParts(path, device, dtype, progress)
    replaced = {
        name: None if source is None else _replacement(name, source, configs, device, dtype, progress)
        for name, source in named.items()
    }
    return OverriddenParts(base, replaced) if replaced else base


def _named(card: ModelCard) -> dict[str, str | None]:
    return {**card.text_encoders, **({} if card.vae is None else {"vae": card.vae})}


def _replacement(  # noqa: PLR0917 - all of them are passed on
    name: str, source: str, configs: Path, device: torch.device, dtype: torch.dtype, progress: Progress
) -> Replacement:
    path = sources.locate(sources.parse(source), progress, only=name)
    return Replacement(name, path, configs, device=device, dtype=dtype, progress=progress)


def _check_file(card: ModelCard, found: Detected) -> None:
    if found.family is not card.family:
        what = f"{found.family.value!r} ({found.variant})"
        msg = f"{card.source} is a checkpoint of family {what}, the card says {card.family.value!r}."
        raise ModelLoadFailed(msg)
    said = card.schedule.prediction_type
    if said is not None and found.marked and said != found.prediction_type:
        msg = f"{card.source} is marked as predicting {found.prediction_type!r}, the card's schedule says {said!r}."
        raise ModelLoadFailed(msg)


def _check_folder(card: ModelCard, path: Path) -> None:
    try:
        index: dict[str, Any] = json.loads((path / "model_index.json").read_text())
    except ValueError as error:
        msg = f"{path / 'model_index.json'} is no JSON: {error}"
        raise ModelLoadFailed(msg) from error
    name = str(index.get("_class_name"))
    family = next((family for start, family in _PIPELINES if name.startswith(start)), None)
    if family is not card.family:
        is_of = "a pipeline that Aquatint does not know" if family is None else f"family {family.value!r}"
        msg = f"{path} holds a {name}, {is_of}; the card says {card.family.value!r}."
        raise ModelLoadFailed(msg)
