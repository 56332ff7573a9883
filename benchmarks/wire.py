"""One kept-alive HTTP connection, as little between the clock and the socket as there can be."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Wire:
    """Sends requests that are bytes already, and reads answers that say how long they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        """Speak over the given streams."""
        self._reader, self._writer, self._host = reader, writer, host

    @classmethod
    async def open(cls, url: str) -> "Wire":
        """Connect to the server at ``url``."""
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port), parts.netloc)

    def request(self, path: str, body: dict[str, Any], **headers: str) -> bytes:
        """A POST as it is sent."""
        data = json.dumps(body).encode()
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        lines = f"host: {self._host}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{own}"
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + data

    async def exchange(self, message: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer to ``message``."""
        self._writer.write(message)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return head, await self._reader.readexactly(length)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
