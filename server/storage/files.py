"""Files of a folder that bounds itself: written whole, found by name, the oldest let go first."""

import contextlib
import errno
import os
import re
import tempfile
from pathlib import Path

import msgspec

from server.domain.failures import StorageFull

_UNFINISHED = ".new-"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Retention(msgspec.Struct, frozen=True):
    """How long and how much is kept."""

    seconds: float
    bytes: int
    files: int | None = None
    """None: any number."""


def write(folder: Path, name: str, data: bytes, now: float) -> None:
    """Store ``data`` under ``name``, whole or not at all, as old as ``now`` (Unix seconds) says. `StorageFull` without room."""
    try:
        _write(folder, name, data, now)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        msg = "There is no room left for uploads; try again later."
        raise StorageFull(msg) from error


def _write(folder: Path, name: str, data: bytes, now: float) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.utime(temporary, (now, now))
        Path(temporary).replace(folder / name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def prune(folder: Path, names: re.Pattern[str], retention: Retention, now: float) -> int:
    """Delete what is past its time, then the oldest until the rest fits; returns how many files went.

    Only files whose whole name is one of ``names``, and those that were never finished.
    """
    files = sorted(_listing(folder, names))
    total, left, gone = sum(size for _, size, _ in files), len(files), 0
    most = left if retention.files is None else retention.files
    for modified, size, path in files:
        if modified >= now - retention.seconds and total <= retention.bytes and left <= most:
            break
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        total -= size
        left -= 1
        gone += 1
    return gone


def _listing(folder: Path, names: re.Pattern[str]) -> list[tuple[float, int, Path]]:
    found: list[tuple[float, int, Path]] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if names.fullmatch(entry.name) is None and not entry.name.startswith(_UNFINISHED):
                continue
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat(follow_symlinks=False)
                found.append((facts.st_mtime, facts.st_size, Path(entry.path)))
    return found
