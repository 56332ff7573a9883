"""HTTP/1.1 by hand: a double must be able to do what no server library lets one do, such as stop in the middle of a line."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def form(self) -> dict[str, list[bytes]]:
        """The parts of a multipart body by their names, with `[]` taken off."""
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        found: dict[str, list[bytes]] = {}
        for part in BytesParser(policy=HTTP).parsebytes(head + self.body).iter_parts():
            name = part.get_param("name", header="content-disposition").removesuffix("[]")
            found.setdefault(name, []).append(part.get_payload(decode=True))
        return found


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(value: Any, status: int = 200, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return Reply(status, json.dumps(value).encode(), {"content-type": "application/json", **named})


class Connection:
    """What a handler may do beside replying."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.closed = False

    async def reply(self, reply: Reply) -> None:
        await self.begin(reply.status, {**reply.headers, "content-length": str(len(reply.body))})
        await self.write(reply.body)

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        await self.write("\r\n".join(lines).encode())

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def event(self, name: str, value: Any) -> None:
        await self.write(f"event: {name}\ndata: {json.dumps(value)}\n\n".encode())

    def finish(self) -> None:
        """An orderly end, wherever the answer stands."""
        self.closed = True
        self._writer.close()

    def reset(self) -> None:
        """A RST instead of an end."""
        self.closed = True
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Handler = Callable[[Request, Connection], Awaitable[Reply | None]]
"""Returns a reply, or None if it has written everything itself."""


class Wire:
    """A server on 127.0.0.1; `url` once it is started."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.url = ""
        self.stopping = asyncio.Event()
        """Set when hanging handlers must end."""

    async def serve(self, port: int, *, started: Callable[[str], None] = lambda _url: None) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started(self.url)
        async with server:
            await self.stopping.wait()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not self.stopping.is_set():
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
                body = await self._body(reader, headers)
                connection = Connection(writer)
                reply = await self._handler(Request(method, urlsplit(target).path, headers, body), connection)
                if reply is not None:
                    await connection.reply(reply)
                if connection.closed:
                    return
        with contextlib.suppress(ConnectionError):
            writer.close()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await reader.readexactly(int(headers.get("content-length", 0)))
        whole = b""
        while size := int((await reader.readline()).strip(), 16):
            whole += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
        return whole
