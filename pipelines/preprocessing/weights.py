"""Where the files of a preprocessor's weights lie, as its card says."""

from collections.abc import Iterable
from pathlib import Path

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import ModelLoadFailed
from pipelines.contract.preprocessing import Weights
from pipelines.families import hub, sources
from pipelines.families.progress import Progress


def files(card: PreprocessorCard, weights: Weights, progress: Progress) -> tuple[Path, ...]:
    """One path for each of ``weights.files``; what ``card`` names as hf: is downloaded if it is not in the cache.

    In a folder each file may also lie without the folders before its name, or as safetensors of the same name. Raises
    `ModelLoadFailed` when one is not there.
    """
    source = sources.parse(card.source, card.revision)
    if (source.scheme == "file" or card.file is not None) and len(weights.files) > 1:
        msg = f"{', '.join(weights.files)} are needed: name a folder (dir:) that has them, not one file."
        raise ModelLoadFailed(msg)
    names = weights.files if card.file is None else (card.file,)
    if source.scheme == "hf":
        return hub.files(source.rest, source.revision, names, progress)
    path = sources.locate(source, progress)
    if source.scheme == "file":
        return (path,)
    return tuple(_inside(path, name) for name in names)


def _inside(folder: Path, name: str) -> Path:
    places = list(_places(folder, Path(name)))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(str(place.relative_to(folder)) for place in places)
        msg = f"{folder} has none of {looked}."
        raise ModelLoadFailed(msg)
    return found


def _places(folder: Path, name: Path) -> Iterable[Path]:
    for each in dict.fromkeys((name, Path(name.name))):
        yield folder / each.with_suffix(".safetensors")
        yield folder / each
