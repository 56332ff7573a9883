"""Where a card's weights lie on disk, and whether they may be read."""

from importlib.resources import files
from pathlib import Path

from pipelines.contract.errors import ModelLoadFailed

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def folder(source: str) -> Path:
    """The diffusers folder that ``source`` (``bundled:NAME`` or ``dir:PATH``) names.

    Raises `ModelLoadFailed` when it is not there, is no diffusers folder, or holds weights only as pickles.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "bundled":
        path = Path(str(files("pipelines"))) / "bundled" / rest
    elif scheme == "dir":
        path = Path(rest).expanduser()
    else:
        msg = f"Source {source!r} is not understood; use 'bundled:NAME' or 'dir:PATH'."
        raise ModelLoadFailed(msg)
    if not (path / "model_index.json").is_file():
        msg = f"{path} is no diffusers model folder: there is no model_index.json."
        raise ModelLoadFailed(msg)
    _refuse_pickles(path)
    return path


def _refuse_pickles(path: Path) -> None:
    """Loading a pickle runs whatever code its author put in; only safetensors is read."""
    for part in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        names = [entry.name for entry in part.iterdir()]
        pickles = [name for name in names if name.endswith(_PICKLES)]
        if pickles and not any(name.endswith(".safetensors") for name in names):
            msg = (
                f"{part / pickles[0]} is a pickle, which can run code when it is loaded. "
                "Aquatint loads only safetensors; save the model with safe_serialization=True."
            )
            raise ModelLoadFailed(msg)
