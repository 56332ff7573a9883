"""Where the one weights file of an adapter lies."""

from importlib.resources import files
from pathlib import Path

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families import hub, sources
from pipelines.families.progress import Progress


def locate(source: str, revision: str | None, name: str | None, progress: Progress) -> Path:
    """The safetensors file that ``source`` means: ``file:PATH``, ``bundled:NAME`` or ``hf:REPO``, of which ``name`` is wanted.

    A file of a repository that is not in the cache is downloaded, if downloads are on. Raises `ModelLoadFailed` when it is not
    there.
    """
    parsed = sources.parse(source, revision)
    if parsed.scheme == "hf":
        return hub.file(parsed.rest, parsed.revision, name, progress)
    if parsed.scheme == "bundled":
        path = Path(str(files("pipelines"))) / "bundled" / f"{parsed.rest.removesuffix('.safetensors')}.safetensors"
    else:
        path = Path(parsed.rest).expanduser()
    if parsed.scheme == "dir" or not path.is_file():
        msg = f"{source!r}: {path} is no file." + (" Write 'file:' and the file in it." if path.is_dir() else "")
        raise ModelLoadFailed(msg)
    return path
