"""URLs under which results can be fetched: they expire, and open one result each."""

import asyncio
import math
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

from litestar import Request

from server.api.errors import LinkExpired, LinkInvalid
from server.domain.asset import Asset
from server.domain.clock import Clock
from server.domain.failures import StorageFailure
from server.domain.ports.assets import AssetStore
from server.storage.signing import LinkSigner

T = TypeVar("T")

OUTPUTS = "/outputs"

_STEPS = 24
"""Links of one result that are made within this part of their time are the same, so that caches know them again."""

_SIGN_SECONDS = 2.0
"""How long a store may take to sign, which it needs credentials for; after that a link of our own does as well."""


class Links:
    """Where clients find what this server has stored."""

    __slots__ = ("_cdn", "_clock", "_public_url", "_seconds", "_signer", "_store")

    def __init__(
        self,
        public_url: str | None,
        signer: LinkSigner,
        store: AssetStore,
        clock: Clock,
        *,
        seconds: float,
        cdn: str | None = None,
    ) -> None:
        """Links are good for ``seconds``, or a little longer; ``cdn`` is where the store can be read by everybody, for ever."""
        self._public_url, self._cdn = public_url, cdn
        self._signer, self._store, self._clock, self._seconds = signer, store, clock, seconds

    async def output(self, request: Request[Any, Any, Any], asset: Asset) -> str:
        """The URL of a result; without a configured one, below the address the client itself used."""
        return await self.absolute(self.base(request), asset)

    def base(self, request: Request[Any, Any, Any]) -> str:
        """Where the client of ``request`` finds this server."""
        return self._public_url or str(request.base_url).rstrip("/")

    async def absolute(self, base: str, asset: Asset) -> str:
        """The URL of a result for a client whose address of this server is ``base``."""
        if self._cdn is not None and asset.path:
            return f"{self._cdn}/{asset.path}"
        try:
            async with asyncio.timeout(_SIGN_SECONDS):
                signed = await self._store.signed(asset, self._seconds)
        except (StorageFailure, TimeoutError):
            signed = None
        return signed or self._own(base, asset.name)

    def check(self, name: str, expires: str | None, signature: str | None) -> None:
        """Raise `LinkInvalid` or `LinkExpired` unless it is a link of ours that is still good."""
        if not expires or not signature or not (expires.isascii() and expires.isdigit() and len(expires) < 16):  # noqa: PLR2004 - any time there can be
            msg = "This is no link of this server's: it needs 'expires' and 'signature' as they were given out."
            raise LinkInvalid(msg)
        if not self._signer.valid(name, int(expires), signature):
            msg = "This link was altered: its signature is not of this server."
            raise LinkInvalid(msg)
        if self._clock.time() >= int(expires):
            msg = "This link has expired; ask for the job again, which gives a new one."
            raise LinkExpired(msg)

    def _own(self, base: str, name: str) -> str:
        step = max(1.0, self._seconds / _STEPS)
        expires = math.ceil(math.ceil((self._clock.time() + self._seconds) / step) * step)
        return f"{base}{OUTPUTS}/{name}?expires={expires}&signature={self._signer.sign(name, expires)}"


async def gathered(works: Iterable[Awaitable[T]]) -> list[T]:
    """What all of ``works`` come to, in their order; a store that is slow to sign is waited for once, not at each."""
    return list(await asyncio.gather(*works))
