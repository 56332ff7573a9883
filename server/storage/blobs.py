"""Finished images in a local folder, under names nobody can guess, for a bounded time and in bounded space."""

import asyncio
import os
import re
import secrets
from pathlib import Path

from msgspec.structs import replace

from server.domain.asset import Asset, Format
from server.domain.clock import Clock
from server.storage.files import Retention, prune, write

NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(png|jpeg|webp)")
"""24 random bytes and a suffix; nothing else ever becomes a path."""
_TOKEN_BYTES = 24
_SWEEP_SECONDS = 60.0


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
        await asyncio.to_thread(write, self._folder, name, data, self._clock.time())
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

    async def again(self, asset: Asset, tenant: str, job_id: str) -> Asset | None:  # noqa: ARG002 - here names belong to nobody
        """The same picture under a name of its own; None if its content is gone."""
        if NAME.fullmatch(asset.name) is None:
            return None
        name = f"{secrets.token_urlsafe(_TOKEN_BYTES)}.{asset.format.value}"
        try:
            await asyncio.to_thread(self._link, asset.name, name)
        except FileNotFoundError:
            return None
        return replace(asset, name=name)

    def _link(self, old: str, new: str) -> None:
        """One file under two names; it is as old as the younger of them."""
        now = self._clock.time()
        (self._folder / new).hardlink_to(self._folder / old)
        os.utime(self._folder / new, (now, now))

    def sweep(self) -> int:
        """Delete what is past its time, then the oldest until the rest fits; returns how many files went."""
        return prune(self._folder, NAME, self._retention, self._clock.time())
