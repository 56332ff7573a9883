"""``python -m pipelines.families.convert IN OUT``: a pickled checkpoint's tensors as a safetensors file.

Runs in a process of its own, and torch reads with ``weights_only=True``: nothing that the pickle names is run. Callbacks and
numbers that old training checkpoints carry become inert stand-ins; any other class in it is a reason to refuse. Prints what was
written; exits 1 with the reason on stderr.
"""

import argparse
import hashlib
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines.contract.errors import ModelLoadFailed
from pipelines.families.weights_file import inspect, is_pickle

_BALLAST = ("pytorch_lightning.", "lightning.", "numpy.")
"""Packages whose classes and numbers old training checkpoints carry along."""
_CHUNK = 1 << 20


class Unconvertible(Exception):
    """The file cannot be converted; the message says why."""


class Inert:
    """Stands for a class of a pickle that is of no use here; it takes any state and does nothing."""

    def __init__(self, *_arguments: object, **_options: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def main() -> int:
    """Convert; 0 when OUT is there."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.families.convert", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(convert(arguments.source, arguments.target) + "\n")
    except (Unconvertible, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def convert(source: Path, target: Path) -> str:
    """Write the tensors of the pickle ``source`` to ``target``, whole or not at all; what was done, in words.

    Raises `Unconvertible` if ``source`` is no pickle, holds code, or holds no tensors, and if ``target`` exists.
    """
    if target.exists():
        msg = f"{target} exists already."
        raise Unconvertible(msg)
    if not is_pickle(source):
        msg = f"{source} is no pickle; {_what_then(source)}"
        raise Unconvertible(msg)
    tensors, left_out = _tensors(read(source))
    if not tensors:
        msg = f"{source} holds no tensors."
        raise Unconvertible(msg)
    metadata = {"format": "pt", "converted_from": source.name, "converted_from_sha256": _sha256(source)}
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file(tensors, unfinished, metadata=metadata)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return f"{target}: {len(tensors)} tensors, {target.stat().st_size} bytes; {left_out} other things left out."


def read(source: Path) -> Any:
    """What the pickle ``source`` holds, without anything that it names being run; raises `Unconvertible` if it holds code."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
        # Not the zip that torch has written since 1.6; what it names comes to light while loading.
        unknown = []
    harmful = [name for name in unknown if not name.startswith(_BALLAST)]
    if harmful:
        msg = f"{source} names code that it would run when loaded: {', '.join(harmful)}. It is not read."
        raise Unconvertible(msg)
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in unknown]):
            return torch.load(source, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        msg = f"{source} cannot be loaded with weights_only=True: {reason}"
        raise Unconvertible(msg) from error


def _tensors(loaded: Any) -> tuple[dict[str, torch.Tensor], int]:
    """The tensors without the ``state_dict`` around them, each with memory of its own; how much else there was.

    Those of a dictionary within (IP-Adapters have two) are called by both names, with a dot between them.
    """
    state = dict(_flat(loaded.get("state_dict", loaded))) if isinstance(loaded, dict) else {}
    found: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            continue
        tensor = value.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory, and would write all of a storage that they are a part of.
        alone = place not in taken and tensor.untyped_storage().nbytes() == tensor.nbytes
        found[name] = tensor if alone else tensor.clone()
        taken.add(place)
    return found, len(state) - len(found)


def _flat(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _what_then(source: Path) -> str:
    try:
        inspect(source)
    except ModelLoadFailed as error:
        return str(error)
    return "it is safetensors already, whatever it is called."


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
