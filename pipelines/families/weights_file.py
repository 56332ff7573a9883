"""What a weights file holds, told from its own bytes: the tensors' names and shapes, or the reason why it is not read."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipelines.contract.errors import ModelLoadFailed

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 100_000_000
"""Bytes; the safetensors library has the same limit."""
_TAR_MAGIC = slice(257, 262)
_PICKLE_PROTOCOLS = (2, 3, 4, 5)


class Tensor(msgspec.Struct, frozen=True):
    """One tensor of a file; ``dtype`` is safetensors' spelling (``F16``, ``BF16``, ``F8_E4M3``)."""

    dtype: str
    shape: tuple[int, ...]


class Contents(msgspec.Struct, frozen=True):
    """A safetensors file's header."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def inspect(path: Path) -> Contents:
    """The header of the safetensors file ``path``, whatever its suffix; the weights themselves are not read.

    Raises `ModelLoadFailed` when it is absent, a pickle (by content), cut short, or no safetensors at all.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
            header = _header(file.read, start, size)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise ModelLoadFailed(msg) from error
    if header is None:
        raise ModelLoadFailed(pickle_refusal(path) if _pickled(start) else f"{path} is no safetensors file, or a damaged one.")
    metadata = header.pop("__metadata__", {})
    try:
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        tensors = {name: Tensor(str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()}
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        msg = f"{path} has a damaged safetensors header: {error!r}"
        raise ModelLoadFailed(msg) from error
    expected = _LENGTH.size + _LENGTH.unpack(start[: _LENGTH.size])[0] + end
    if size != expected:
        what = "is cut short" if size < expected else "has something behind its end"
        msg = f"{path} {what}: its header speaks of {expected} bytes, there are {size}. Download or copy it again."
        raise ModelLoadFailed(msg)
    return Contents(tensors, {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {})


def is_pickle(path: Path) -> bool:
    """Whether ``path`` begins as torch's pickles do: a zip, a pickle opcode, or the tar of very old releases."""
    with path.open("rb") as file:
        start = file.read(512)
        return _pickled(start) and _header(file.read, start, path.stat().st_size) is None


def pickle_refusal(path: Path) -> str:
    """Why a pickle is not loaded, and what to do."""
    return (
        f"{path} is a pickle, which can run code when it is loaded. Aquatint loads only safetensors: "
        f"convert it with 'aquatint models convert {path} {path.with_suffix('.safetensors')}', "
        "or save the model again with safe_serialization=True."
    )


def _pickled(start: bytes) -> bool:
    is_opcode = len(start) > 1 and start[0] == 0x80 and start[1] in _PICKLE_PROTOCOLS  # noqa: PLR2004 - PROTO
    return start.startswith(b"PK\x03\x04") or is_opcode or start[_TAR_MAGIC] == b"ustar"


def _header(read: Any, start: bytes, size: int) -> dict[str, Any] | None:
    """The JSON object at the start of a safetensors file; None if this is none."""
    if len(start) <= _LENGTH.size or start[_LENGTH.size : _LENGTH.size + 1] != b"{":
        return None
    length = _LENGTH.unpack(start[: _LENGTH.size])[0]
    if length > min(_MAX_HEADER, size - _LENGTH.size):
        return None
    text = start[_LENGTH.size : _LENGTH.size + length]
    text += read(length - len(text))
    try:
        header = json.loads(text)
    except ValueError:
        return None
    return header if isinstance(header, dict) else None
