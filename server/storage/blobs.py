"""Finished images in a local folder, under names nobody can guess, for a bounded time and in bounded space."""

import asyncio
import contextlib
import os
import re
import secrets
import tempfile
from pathlib import Path

from server.domain.asset import Format
from server.domain.clock import Clock

NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpeg|webp)")
"""24 random bytes and a suffix; nothing else ever becomes a path."""
_TOKEN_BYTES = 24
_SWEEP_SECONDS = 60.0


class Retention:
    """How long and how much is kept."""

    __slots__ = ("bytes", "seconds")

    def __init__(self, seconds: float, bytes_: int) -> None:
        self.seconds = seconds
        self.bytes = bytes_


class FolderStore:
    """An `AssetStore` in a folder. File times tell the age, so it survives restarts without a database."""

    __slots__ = ("_clock", "_folder", "_retention", "_swept")

    def __init__(self, folder: Path, retention: Retention, clock: Clock) -> None:
        self._folder = folder
        self._retention = retention
        self._clock = clock
        self._swept = float("-inf")

    async def put(self, data: bytes, suffix: Format) -> str:
        """Store ``data`` whole or not at all; now and then this also lets go of what is too old or too much."""
        name = f"{secrets.token_urlsafe(_TOKEN_BYTES)}.{suffix.value}"
        await asyncio.to_thread(self._write, name, data)
        if self._clock.monotonic() - self._swept >= _SWEEP_SECONDS:
            self._swept = self._clock.monotonic()
            await asyncio.to_thread(self.sweep)
        return name

    async def get(self, name: str) -> bytes | None:
        """The bytes stored under ``name``; None for every name this store did not give out."""
        if NAME.fullmatch(name) is None:
            return None
        try:
            return await asyncio.to_thread((self._folder / name).read_bytes)
        except FileNotFoundError:
            return None

    def sweep(self) -> int:
        """Delete what is past its time, then the oldest until the rest fits; returns how many files went."""
        files = sorted(self._listing())
        total = sum(size for _, size, _ in files)
        oldest_allowed = self._clock.time() - self._retention.seconds
        gone = 0
        for modified, size, path in files:
            if modified >= oldest_allowed and total <= self._retention.bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            total -= size
            gone += 1
        return gone

    def _listing(self) -> list[tuple[float, int, Path]]:
        found: list[tuple[float, int, Path]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name) is None and not entry.name.startswith(".new-"):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    found.append((facts.st_mtime, facts.st_size, Path(entry.path)))
        return found

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            now = self._clock.time()
            os.utime(temporary, (now, now))
            Path(temporary).replace(self._folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
