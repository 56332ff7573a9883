"""Uploads kept for later requests: a folder per tenant, files named by their content, what is longest unused let go first."""

import asyncio
import contextlib
import hashlib
import os
import re
from pathlib import Path

from pipelines.contract.errors import TooLarge
from server.domain.clock import Clock
from server.storage.files import Retention, prune, write

ID = re.compile(r"asset_[0-9a-f]{32}")
"""Half of a SHA-256; nothing else ever becomes a path."""


def id_of(tenant: str, data: bytes) -> str:
    """What ``tenant`` knows ``data`` by. The tenant is part of it: ids tell nobody what others have uploaded."""
    return f"asset_{hashlib.sha256(tenant.encode() + bytes(1) + data).hexdigest()[:32]}"


class InputFolder:
    """An `InputStore` in a folder. File times tell when something was last used, so it survives restarts without a database.

    The bounds hold for each tenant: nobody's uploads push out another's.
    """

    __slots__ = ("_clock", "_folder", "_retention")

    def __init__(self, folder: Path, retention: Retention, clock: Clock) -> None:
        self._folder = folder
        self._retention = retention
        self._clock = clock

    async def put(self, tenant: str, data: bytes) -> str:
        """Store ``data``, and let go of what is then too old or too much; `TooLarge` if it is too much by itself."""
        if len(data) > self._retention.bytes:
            msg = f"The file has {len(data)} bytes; uploads of one caller may have {self._retention.bytes} together."
            raise TooLarge(msg, param="file")
        return await asyncio.to_thread(self._put, tenant, data)

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        """The bytes, which are young again; None for every id that this tenant has not been given, or not any more."""
        return await asyncio.to_thread(self._get, tenant, asset_id) if ID.fullmatch(asset_id) else None

    async def delete(self, tenant: str, asset_id: str) -> bool:
        """Let go of them; False if there are none."""
        return await asyncio.to_thread(self._delete, tenant, asset_id) if ID.fullmatch(asset_id) else False

    def _put(self, tenant: str, data: bytes) -> str:
        folder = self._of(tenant)
        asset_id = id_of(tenant, data)
        write(folder, asset_id, data, self._clock.time())
        prune(folder, ID, self._retention, self._clock.time())
        return asset_id

    def _get(self, tenant: str, asset_id: str) -> bytes | None:
        path, now = self._of(tenant) / asset_id, self._clock.time()
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= now - self._retention.seconds:
                os.utime(path, (now, now))
                return path.read_bytes()
        return None

    def _delete(self, tenant: str, asset_id: str) -> bool:
        try:
            (self._of(tenant) / asset_id).unlink()
        except FileNotFoundError:
            return False
        return True

    def _of(self, tenant: str) -> Path:
        return self._folder / hashlib.sha256(tenant.encode()).hexdigest()[:32]
