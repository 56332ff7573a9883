"""Results that an upstream leaves at an address: fetched from the hosts that are expected of it, and from no others."""

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpcore

from server.egress.guarded import Forbidden

MOST_BYTES = 64 << 20
_SECONDS = 60.0
_OK = 200


class FetchFailed(Exception):
    """There was no usable answer; the message says why."""


class Fetcher:
    """Fetches from ``base``, the address of the upstream itself, and by https from ``hosts``; redirects are not followed.

    A host that begins with a dot stands for all below it.
    """

    __slots__ = ("_hosts", "_origin")

    def __init__(self, base: str, hosts: Iterable[str]) -> None:
        self._origin = _origin(base)
        self._hosts = tuple(host.lower() for host in hosts)

    def allows(self, url: str) -> bool:
        """Whether ``url`` leads where results are expected."""
        origin = _origin(url)
        if origin is None:
            return False
        scheme, host, port = origin
        if origin == self._origin:
            return True
        named = any(host == known or (known.startswith(".") and host.endswith(known)) for known in self._hosts)
        return named and scheme == "https" and port == 443  # noqa: PLR2004 - https

    async def fetch(self, url: str, *, most: int = MOST_BYTES) -> bytes:
        """The content of ``url``; raises `Forbidden` where it may not lead, and `FetchFailed`."""
        if not self.allows(url):
            msg = f"The upstream names a result at {urlsplit(url).hostname!r}, which is none of its hosts."
            raise Forbidden(msg)
        limits = dict.fromkeys(("connect", "read", "write", "pool"), _SECONDS)
        found = bytearray()
        try:
            async with (
                asyncio.timeout(_SECONDS),
                # One for each: results are few, and come from ever other hosts.
                httpcore.AsyncConnectionPool() as pool,
                pool.stream("GET", url, extensions={"timeout": limits}) as response,
            ):
                if response.status != _OK:
                    msg = f"The result cannot be fetched: HTTP {response.status}."
                    raise FetchFailed(msg)
                async for chunk in response.aiter_stream():
                    found += chunk
                    if len(found) > most:
                        msg = f"The result has more than {most} bytes."
                        raise FetchFailed(msg)
        except TimeoutError as error:
            msg = f"The result did not come within {_SECONDS:g} s."
            raise FetchFailed(msg) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.UnsupportedProtocol) as error:
            msg = f"The result cannot be fetched: {type(error).__name__}: {error}"
            raise FetchFailed(msg) from error
        return bytes(found)


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        return None
    return parts.scheme, parts.hostname.lower(), port or (443 if parts.scheme == "https" else 80)
