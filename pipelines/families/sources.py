"""Where a card's weights lie on disk, and whether they may be read."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families import hub
from pipelines.families.progress import Progress
from pipelines.families.weights_file import inspect, is_pickle, pickle_refusal

_PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")


class Source(msgspec.Struct, frozen=True):
    """A source as cards write it, taken apart."""

    scheme: str
    """``bundled``, ``dir``, ``file`` or ``hf``."""
    rest: str
    revision: str | None = None
    """Commit, tag or branch; only of an ``hf`` source."""


def parse(text: str, revision: str | None = None) -> Source:
    """The source written as ``bundled:NAME``, ``dir:PATH``, ``file:PATH`` or ``hf:OWNER/NAME[@REVISION]``.

    Raises `ModelLoadFailed` for anything else.
    """
    scheme, _, rest = text.partition(":")
    if scheme not in {"bundled", "dir", "file", "hf"} or not rest:
        msg = f"Source {text!r} is not understood; use 'bundled:NAME', 'dir:PATH', 'file:PATH' or 'hf:OWNER/NAME'."
        raise ModelLoadFailed(msg)
    if scheme == "hf":
        rest, _, written = rest.partition("@")
        return Source(scheme, rest, written or revision)
    return Source(scheme, rest)


def locate(source: Source, progress: Progress, *, only: str | None = None, without: Sequence[str] = ()) -> Path:
    """The file or folder that ``source`` names; an ``hf`` source is downloaded if it is not in the cache.

    Of a repository only component ``only`` is wanted, or all that a pipeline needs ``without`` some. Raises
    `ModelLoadFailed` when it is not there.
    """
    if source.scheme == "hf":
        return hub.snapshot(source.rest, source.revision, progress, only=only, without=without)
    if source.scheme == "bundled":
        path = Path(str(files("pipelines"))) / "bundled" / source.rest
    else:
        path = Path(source.rest).expanduser()
    if source.scheme == "file" and not path.is_file():
        msg = f"{path} is no file." + (" For a diffusers folder write 'dir:'." if path.is_dir() else "")
        raise ModelLoadFailed(msg)
    if source.scheme != "file" and not path.is_dir():
        msg = f"{path} is no folder." + (" For a single checkpoint file write 'file:'." if path.is_file() else "")
        raise ModelLoadFailed(msg)
    return path


def folder(source: str) -> Path:
    """The diffusers folder that ``source`` names; raises `ModelLoadFailed` when it is none or cannot be read safely."""
    return checked(locate(parse(source), lambda _part, _done: None))


def checked(path: Path) -> Path:
    """``path``, a diffusers folder whose weights are whole safetensors files; raises `ModelLoadFailed` for any other."""
    if not (path / "model_index.json").is_file():
        msg = f"{path} is no diffusers model folder: there is no model_index.json."
        raise ModelLoadFailed(msg)
    for part in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        check_weights(part)
    return path


def check_weights(part: Path) -> None:
    """Refuse a part's folder whose weights are pickles, whatever they are called, or damaged.

    Loading a pickle runs whatever code its author put in. Pickles beside safetensors are never read, so they may stay.
    """
    entries = sorted(entry for entry in part.iterdir() if entry.is_file())
    weights = [entry for entry in entries if entry.suffix == ".safetensors"]
    for entry in weights:
        inspect(entry)
    if not weights:
        for entry in entries:
            if entry.suffix in _PICKLE_SUFFIXES or is_pickle(entry):
                raise ModelLoadFailed(pickle_refusal(entry))
