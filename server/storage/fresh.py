"""Files that were stored a moment ago, still in memory: most are wanted once more at once, inside the answer to their request."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable

import msgspec

from server.domain.asset import Asset
from server.domain.ports.assets import AssetStore
from server.domain.stored import New, Stored

_MOST = 32 * 1024 * 1024


class _File(msgspec.Struct, frozen=True):
    tenant: str
    job_id: str
    data: bytes


class Fresh:
    """An `AssetStore` that gives what it has just stored once without reading it; everything is stored first all the same."""

    __slots__ = ("_files", "_held", "_most", "_store")

    def __init__(self, store: AssetStore, most: int = _MOST) -> None:
        """Up to ``most`` bytes are held; the oldest go first."""
        self._store, self._most = store, most
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._held = 0

    async def put(self, data: bytes, new: New) -> Asset:
        """Store ``data`` for good, and hold it."""
        asset = await self._store.put(data, new)
        self._files[asset.name] = _File(new.tenant, new.job_id, data)
        self._held += len(data)
        while self._held > self._most:
            self._let_go(next(iter(self._files)))
        return asset

    async def get(self, name: str) -> bytes | None:
        """All bytes of an asset, or None; what was held is not any longer."""
        return self._let_go(name) or await self._store.get(name)

    async def again(self, asset: Asset, tenant: str, job_id: str) -> Asset | None:
        """The store's."""
        return await self._store.again(asset, tenant, job_id)

    async def facts(self, name: str) -> Stored | None:
        """The store's."""
        return await self._store.facts(name)

    async def open(self, stored: Stored, start: int, stop: int) -> AsyncIterator[bytes] | None:
        """The store's."""
        return await self._store.open(stored, start, stop)

    async def delete(self, tenant: str, names: Iterable[str]) -> int:
        """The store's, and nothing of it is held."""
        names = list(names)
        for name in names:
            self._let_go(name)
        return await self._store.delete(tenant, names)

    async def discard(self, tenant: str, job_id: str) -> int:
        """The store's, and nothing of it is held."""
        for name in [name for name, file in self._files.items() if (file.tenant, file.job_id) == (tenant, job_id)]:
            self._let_go(name)
        return await self._store.discard(tenant, job_id)

    async def signed(self, asset: Asset, seconds: float) -> str | None:
        """The store's."""
        return await self._store.signed(asset, seconds)

    def _let_go(self, name: str) -> bytes | None:
        file = self._files.pop(name, None)
        if file is None:
            return None
        self._held -= len(file.data)
        return file.data
