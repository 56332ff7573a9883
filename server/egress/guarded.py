"""Connections that lead only where they may, decided at the moment of connecting.

A name is resolved once, its addresses are judged, and the connection goes to one that passed: an answer of the name server that
changes afterwards changes nothing.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpcore

from server.egress.addresses import Allowed

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a host name, in the order in which they should be tried."""


class Forbidden(Exception):
    """The address is not one that clients may name."""


async def resolve(host: str, port: int) -> list[str]:
    """What this machine's resolver says."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """httpcore's network, fenced in."""

    def __init__(self, allowed: Allowed, resolver: Resolve = resolve) -> None:
        self._allowed, self._resolve = allowed, resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of ``host`` that may be and answers; raises `Forbidden` if none may be."""
        try:
            addresses = await asyncio.wait_for(self._resolve(host, port), timeout)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:  # the latter where the host cannot be a name
            raise httpcore.ConnectError(str(error)) from error
        fit = [address for address in addresses if address in self._allowed]
        if not fit:
            msg = f"{host} is at {', '.join(addresses) or 'no address'}, which is not public; the operator may allow it by name."
            raise Forbidden(msg)
        for address in fit[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(fit[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109, ARG002 - httpcore's signature
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """Never: no client may name one."""
        msg = f"{path} is a local socket."
        raise Forbidden(msg)

    async def sleep(self, seconds: float) -> None:
        """As httpcore does."""
        await self._inner.sleep(seconds)
