"""Repositories of the Hugging Face hub: from its cache, or downloaded because a card says ``hf:``."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.family import Progress

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

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def patterns(parts: Sequence[str]) -> list[str]:
    """Globs of the files wanted: of a pipeline's ``parts``, or of one part whose repository may hold nothing else."""
    inner = [f"{part}/{kind}" for part in parts or COMPONENTS for kind in ("*.json", "*.txt", "*.model", "*.safetensors")]
    own = ["config.json", "tokenizer*.json", "vocab.json", "merges.txt", "spiece.model", "special_tokens_map.json"]
    weights = ["diffusion_pytorch_model*.safetensors", "model*.safetensors", "*.safetensors.index.json"]
    return ["model_index.json", *inner, *([*own, *weights] if parts and not _whole(parts) else [])]


def snapshot(repo: str, revision: str | None, progress: Progress, parts: Sequence[str] = ()) -> Path:
    """The folder with ``repo`` as of ``revision`` (the main branch if None).

    No call is made when the cache has it all. Raises `ModelLoadFailed` when it has not, and downloads are off or fail.
    """
    if not _NAME.fullmatch(repo):
        msg = f"'hf:{repo}' names no repository; write hf:OWNER/NAME."
        raise ModelLoadFailed(msg)
    found = cached(repo, revision, parts)
    if found is not None:
        return found
    if os.environ.get(DOWNLOADS) != "1":
        msg = f"hf:{repo} is not in the cache, and downloads are off (HF_HUB_OFFLINE): get it with 'aquatint models pull'."
        raise ModelLoadFailed(msg)
    return _download(repo, revision, progress, parts)


def cached(repo: str, revision: str | None, parts: Sequence[str] = ()) -> Path | None:
    """The folder of ``repo`` in the cache; None if something of it is missing."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - half a second that folders need not wait for
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        path = Path(
            snapshot_download(
                repo, revision=revision, local_files_only=True, allow_patterns=patterns(parts), ignore_patterns=list(IGNORED)
            )
        )
    except LocalEntryNotFoundError:
        return None
    return path if _complete(path, parts) else None


def _whole(parts: Sequence[str]) -> bool:
    return "scheduler" in parts


def _complete(path: Path, parts: Sequence[str]) -> bool:
    """The hub's own check needs its listing of the repository, which other programs' downloads may have left out."""
    if parts and not _whole(parts):
        return any(path.rglob("*.safetensors"))
    try:
        index = json.loads((path / "model_index.json").read_text())
    except (OSError, ValueError):
        return False
    wanted = [name for name in parts or COMPONENTS if index.get(name) not in (None, [None, None])]
    return all((path / name).is_dir() for name in wanted)


def _download(repo: str, revision: str | None, progress: Progress, parts: Sequence[str]) -> Path:
    """In a process of its own: this one is offline, so that no library looks at the hub behind anybody's back."""
    command = [sys.executable, "-m", "pipelines.families.pull", repo, "--lines", *(f"--part={part}" for part in parts)]
    if revision is not None:
        command.append(f"--revision={revision}")
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
