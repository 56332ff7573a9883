"""What the upstreams without an SDK have in common: one client, errors of the tree, bounded answers."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from server.catalog.upstreams import Upstream
from server.domain.failures import UpstreamAmbiguous, UpstreamUnavailable

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 64 << 20


class Reply(msgspec.Struct, frozen=True):
    """One answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """The object in it; empty if it is none."""
        try:
            found = msgspec.json.decode(self.content)
        except msgspec.DecodeError:
            return {}
        return found if isinstance(found, dict) else {}


class HttpUpstream:
    """Talks to one upstream. ``heard`` is told the headers of every answer."""

    __slots__ = ("_client", "_headers", "_heard", "_upstream")

    def __init__(
        self, upstream: Upstream, headers: Mapping[str, str], heard: Callable[[Mapping[str, str]], None] = lambda _headers: None
    ) -> None:
        self._upstream, self._headers, self._heard = upstream, headers, heard
        self._client: httpx.AsyncClient | None = None

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        files: Mapping[str, tuple[str | None, bytes | str, str] | tuple[None, str]] | None = None,
        most: int = MOST_BYTES,
    ) -> Reply:
        """Send one request; ``path`` may be a whole address below ``base_url``.

        Raises `UpstreamUnavailable` if it was not sent, `UpstreamAmbiguous` if it was and no whole answer came.
        """
        body: dict[str, Any] = {}
        if json is not None:
            body["content"] = msgspec.json.encode(json)
            headers = {**(headers or {}), "content-type": "application/json"}
        if files is not None:
            body["files"] = files
        async with self._translating():
            async with self._opened().stream(method, path, headers=dict(headers or {}), **body) as response:
                found = bytearray()
                async for chunk in response.aiter_bytes():
                    found += chunk
                    if len(found) > most:
                        msg = f"The upstream {self._upstream.name!r} answered with more than {most} bytes."
                        raise UpstreamAmbiguous(msg)
            self._heard(response.headers)
            return Reply(response.status_code, response.headers, bytes(found))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _opened(self) -> "httpx.AsyncClient":
        if self._client is None:
            import httpx  # noqa: PLC0415 - not for those who have no key

            timeouts = self._upstream.timeouts
            self._client = httpx.AsyncClient(
                base_url=self._upstream.base_url,
                headers=dict(self._headers),
                timeout=httpx.Timeout(timeouts.attempt + 5.0, connect=timeouts.connect),
                follow_redirects=False,
            )
        return self._client

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[None]:
        import httpx  # noqa: PLC0415

        name = self._upstream.name
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            msg = f"The upstream {name!r} cannot be reached: {error}"
            raise UpstreamUnavailable(msg) from error
        except httpx.HTTPError as error:
            msg = (
                f"The connection to the upstream {name!r} ended without an answer ({type(error).__name__}); "
                "it may have been charged."
            )
            raise UpstreamAmbiguous(msg) from error
