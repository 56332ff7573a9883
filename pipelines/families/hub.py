"""Repositories of the Hugging Face hub: from its cache, or downloaded because a card says ``hf:``."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.progress import Progress

DOWNLOADS = "AQUATINT_DOWNLOADS"
"""Environment variable: "1" lets a worker download what a card names as ``hf:`` and the cache lacks."""

COMPONENTS = (
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "tokenizer",
    "tokenizer_2",
    "tokenizer_3",
    "transformer",
    "unet",
    "vae",
)
"""What Aquatint reads of a pipeline's folder; safety checkers and image encoders are left where they are."""

IGNORED = ("*.*.safetensors",)
"""Variants such as ``model.fp16.safetensors``: the weights are cast when they are loaded."""

ONE_FILE = "*.safetensors"
"""The file of a repository that holds no other weights."""

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def patterns(only: str | None = None, without: Sequence[str] = ()) -> list[str]:
    """Globs of the files wanted: of a pipeline ``without`` some components, or of ``only`` one with its tokenizer.

    That one may also lie at the root of a repository that holds nothing else, as VAEs do.
    """
    kinds = ("*.json", "*.txt", "*.model", "*.safetensors")
    if only is None:
        return ["model_index.json", *(f"{part}/{kind}" for part in COMPONENTS if part not in without for kind in kinds)]
    own = ["config.json", "tokenizer*.json", "vocab.json", "merges.txt", "spiece.model", "special_tokens_map.json"]
    weights = ["diffusion_pytorch_model*.safetensors", "model*.safetensors", "*.safetensors.index.json"]
    parts = (only, only.replace("text_encoder", "tokenizer"))
    return [*own, *weights, *(f"{part}/{kind}" for part in parts for kind in kinds)]


def snapshot(
    repo: str, revision: str | None, progress: Progress, *, only: str | None = None, without: Sequence[str] = ()
) -> Path:
    """The folder with ``repo`` as of ``revision`` (the main branch if None): a pipeline, or ``only`` one component of it.

    No call is made when the cache has it all. Raises `ModelLoadFailed` when it has not, and downloads are off or fail.
    """
    if not _NAME.fullmatch(repo):
        msg = f"'hf:{repo}' names no repository; write hf:OWNER/NAME."
        raise ModelLoadFailed(msg)
    found = cached(repo, revision, only=only, without=without)
    if found is not None:
        return found
    if os.environ.get(DOWNLOADS) != "1":
        msg = f"hf:{repo} is not in the cache, and downloads are off (HF_HUB_OFFLINE): get it with 'aquatint models pull'."
        raise ModelLoadFailed(msg)
    arguments = [repo, *([f"--only={only}"] if only else []), *(f"--without={name}" for name in without)]
    return _download(repo, [*arguments, *([f"--revision={revision}"] if revision else [])], progress)


def files(repo: str, revision: str | None, names: Sequence[str], progress: Progress) -> tuple[Path, ...]:
    """The files ``names`` of ``repo`` as of ``revision`` (the main branch if None), whatever they hold.

    No call is made when the cache has them. Raises `ModelLoadFailed` when it has not, and downloads are off or fail.
    """
    if not _NAME.fullmatch(repo):
        msg = f"'hf:{repo}' names no repository; write hf:OWNER/NAME."
        raise ModelLoadFailed(msg)
    found = _cached_files(repo, revision, names)
    if found is not None:
        return found
    arguments = [repo, *(f"--file={name}" for name in names), *([f"--revision={revision}"] if revision else [])]
    if os.environ.get(DOWNLOADS) != "1":
        command = f"python -m pipelines.families.pull {' '.join(arguments)}"
        msg = f"hf:{repo} is not in the cache, and downloads are off (HF_HUB_OFFLINE): get it with '{command}'."
        raise ModelLoadFailed(msg)
    folder = _download(repo, arguments, progress)
    return tuple(folder / name for name in names)


def _cached_files(repo: str, revision: str | None, names: Sequence[str]) -> tuple[Path, ...] | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - half a second that folders need not wait for

    found = [try_to_load_from_cache(repo, name, revision=revision) for name in names]
    paths = tuple(Path(each) for each in found if isinstance(each, str))
    return paths if len(paths) == len(names) else None


def cached(repo: str, revision: str | None, *, only: str | None = None, without: Sequence[str] = ()) -> Path | None:
    """The folder of ``repo`` in the cache; None if something of it is missing."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - half a second that folders need not wait for
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    wanted: dict[str, Any] = {"allow_patterns": patterns(only, without), "ignore_patterns": list(IGNORED)}
    try:
        path = Path(snapshot_download(repo, revision=revision, local_files_only=True, **wanted))
    except LocalEntryNotFoundError:
        return None
    return path if _complete(path, only, without) else None


def file(repo: str, revision: str | None, name: str | None, progress: Progress) -> Path:
    """The safetensors file ``name`` of ``repo`` as of ``revision``, or the only one that it has.

    No call is made when it is in the cache. Raises `ModelLoadFailed` when it is not, and downloads are off or fail; when there
    are several; and for a name that is none of a safetensors file.
    """
    if not _NAME.fullmatch(repo):
        msg = f"'hf:{repo}' names no repository; write hf:OWNER/NAME."
        raise ModelLoadFailed(msg)
    if name is not None and not (name.endswith(".safetensors") and ".." not in Path(name).parts):
        msg = f"hf:{repo}: {name!r} is no safetensors file; other formats are not loaded."
        raise ModelLoadFailed(msg)
    wanted = ONE_FILE if name is None else name
    found = _cached_one(repo, revision, wanted)
    if not found:
        if os.environ.get(DOWNLOADS) != "1":
            msg = f"{wanted} of hf:{repo} is not in the cache, and downloads are off (HF_HUB_OFFLINE)."
            raise ModelLoadFailed(msg)
        revisions = [f"--revision={revision}"] if revision else []
        path = _download(repo, [repo, f"--one={wanted}", *revisions], progress)
        found = _files(path, wanted)
    if len(found) != 1:
        names = ", ".join(each.name for each in found)
        msg = f"hf:{repo} has several safetensors files ({names}): say which is meant with 'file'."
        raise ModelLoadFailed(msg)
    return found[0]


def _cached_one(repo: str, revision: str | None, wanted: str) -> list[Path]:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - half a second that folders need not wait for
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        path = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[wanted]))
    except LocalEntryNotFoundError:
        return []
    return _files(path, wanted)


def _files(path: Path, wanted: str) -> list[Path]:
    return sorted(path.rglob(wanted)) if wanted == ONE_FILE else [file for file in (path / wanted,) if file.is_file()]


def _complete(path: Path, only: str | None, without: Sequence[str]) -> bool:
    """The hub's own check needs its listing of the repository, which other programs' downloads may have left out."""
    if only is not None:
        return any(any(folder.glob("*.safetensors")) for folder in (path, path / only))
    try:
        index = json.loads((path / "model_index.json").read_text())
    except (OSError, ValueError):
        return False
    wanted = [name for name in COMPONENTS if name not in without and index.get(name) not in (None, [None, None])]
    return all((path / name).is_dir() for name in wanted)


def _download(repo: str, arguments: Sequence[str], progress: Progress) -> Path:
    """In a process of its own: this one is offline, so that no library looks at the hub behind anybody's back."""
    command = [sys.executable, "-m", "pipelines.families.pull", "--lines", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    progress(f"downloading {repo}", 0.0)
    path = error = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:  # noqa: S603 - our own module
        for line in child.stdout or ():
            told = json.loads(line)
            if "fraction" in told:
                progress(f"downloading {repo}", told["fraction"])
            path, error = told.get("path", path), told.get("error", error)
    if path is None:
        why = error or "the download died."
        msg = f"hf:{repo} is not in the cache and could not be downloaded: {why} 'aquatint models pull' tries again."
        raise ModelLoadFailed(msg)
    return Path(path)
