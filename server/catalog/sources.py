"""Where a card's weights come from: the spelling of sources is checked, and paths start at the folder of models.yaml."""

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from pipelines.contract.adapters import ControlCard, LoraCard, PreprocessorCard, ReferenceCard, UpscalerCard
from pipelines.contract.catalog import ModelCard
from pipelines.contract.family import Family
from server.catalog.positions import Document, Where

Sourced = TypeVar("Sourced", LoraCard, ControlCard, ReferenceCard, UpscalerCard, PreprocessorCard)

_CHECKPOINTS = ("bundled", "dir", "file", "hf", "fake")
_PARTS = ("dir", "file", "hf")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[^@\s]+)?")
_FOLDER_IN_ONE = re.compile(r"[\w.-]+/[\w.-]+(/[\w-][\w.-]*)*(@[^@\s]+)?")
_TEXT_ENCODERS = {
    Family.SD: ("text_encoder",),
    Family.SDXL: ("text_encoder", "text_encoder_2"),
    Family.SD3: ("text_encoder", "text_encoder_2", "text_encoder_3"),
    Family.FAKE: (),
}
_MAY_BE_NULL = "text_encoder_3"


def located(document: Document, where: Where, card: ModelCard, folder: Path) -> ModelCard:
    """``card`` with absolute paths in all its sources; raises `CatalogError` for a source that cannot be one."""
    source = addressed(document, (*where, "source"), card.source, _CHECKPOINTS, folder)
    _check_revision(document, where, source, card.revision)
    vae = None if card.vae is None else addressed(document, (*where, "vae"), card.vae, _PARTS, folder)
    if vae is not None and card.family is Family.FAKE:
        raise document.error((*where, "vae"), "family fake has no VAE")
    encoders = {name: _encoder(document, where, card, name, folder) for name in card.text_encoders}
    return msgspec.structs.replace(card, source=source, vae=vae, text_encoders=encoders)


def sourced(
    document: Document, where: Where, card: Sourced, schemes: tuple[str, ...], folder: Path, *, file: str | None = None
) -> Sourced:
    """An adapter's ``card`` with an absolute path in its source, which must be of ``schemes``; raises `CatalogError`.

    ``file`` is the card's choice among the files of a repository.
    """
    source = addressed(document, (*where, "source"), card.source, schemes, folder)
    _check_revision(document, where, source, card.revision)
    if file is not None and not source.startswith("hf:"):
        raise document.error((*where, "file"), "only a source that begins with hf: holds several files")
    return msgspec.structs.replace(card, source=source)


def addressed(document: Document, where: Where, text: str, schemes: tuple[str, ...], folder: Path, *, inner: bool = False) -> str:
    """The source written as ``text``, which must be of ``schemes``, with its path made absolute; raises `CatalogError`.

    ``inner``: it may name a folder of a repository.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in schemes:
        raise document.error(where, f"must begin with one of {', '.join(f'{each}:' for each in schemes)}")
    if scheme != "fake" and not rest:
        raise document.error(where, f"something must follow {scheme}:")
    if scheme == "hf" and not (_FOLDER_IN_ONE if inner else _REPOSITORY).fullmatch(rest):
        raise document.error(where, f"must be hf:OWNER/NAME{'[/FOLDER]' if inner else ''}, or the same with @REVISION")
    if scheme in {"dir", "file"}:
        return f"{scheme}:{(folder / Path(rest).expanduser()).absolute()}"
    return text


def _check_revision(document: Document, where: Where, source: str, revision: str | None) -> None:
    if revision is not None and not source.startswith("hf:"):
        raise document.error((*where, "revision"), "only a source that begins with hf: has revisions")
    if revision is not None and "@" in source:
        raise document.error((*where, "revision"), "the source names a revision already, behind its @")


def _encoder(document: Document, where: Where, card: ModelCard, name: str, folder: Path) -> str | None:
    place = (*where, "text_encoders", name)
    allowed = _TEXT_ENCODERS[card.family]
    if name not in allowed:
        has = f"has {', '.join(allowed)}" if allowed else "has no text encoders"
        raise document.error(place, f"there is no such text encoder; family {card.family.value} {has}")
    source = card.text_encoders[name]
    if source is None:
        if name != _MAY_BE_NULL:
            raise document.error(place, f"only {_MAY_BE_NULL} can be left out; name a source")
        return None
    return addressed(document, place, source, _PARTS, folder)
