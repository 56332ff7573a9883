"""The server's side of the pipe to a worker: frames of a 4-byte big-endian length and that many bytes."""

import asyncio
import contextlib
import socket
from collections import deque

MAX_FRAME = 256 << 20
_HEADER = 4
_CHUNK = 1 << 18


class FrameTooLarge(Exception):
    """The peer announced a frame over the limit: it speaks something else, or has gone mad."""


class Link:
    """One end of a stream socket; reading has one owner, writing never waits.

    Not an asyncio transport: that one closes at the first failed write, and a worker's last words, still unread, go with it.
    """

    __slots__ = ("_buffer", "_loop", "_queue", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._queue: deque[memoryview] = deque()

    async def receive(self) -> bytes | None:
        """The next frame, or None once the peer is gone and everything it said has been read."""
        if not await self._fill(_HEADER):
            return None
        length = int.from_bytes(self._buffer[:_HEADER], "big")
        if length > MAX_FRAME:
            msg = f"a frame of {length} bytes is over the limit of {MAX_FRAME}"
            raise FrameTooLarge(msg)
        if not await self._fill(_HEADER + length):
            return None
        frame = bytes(self._buffer[_HEADER : _HEADER + length])
        del self._buffer[: _HEADER + length]
        return frame

    def send(self, frame: bytes) -> None:
        """Queue ``frame``; what is queued is bounded by what the server admits. A dead peer is noticed by `receive`."""
        if len(frame) > MAX_FRAME:
            msg = f"a frame of {len(frame)} bytes is over the limit of {MAX_FRAME}"
            raise FrameTooLarge(msg)
        waiting = bool(self._queue)
        self._queue.append(memoryview(len(frame).to_bytes(_HEADER, "big") + frame))
        if not waiting:
            self._flush()

    def close(self) -> None:
        """Hang up; the peer reads end of file. Nobody may be waiting in `receive`."""
        self._queue.clear()
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock)
            self._loop.remove_reader(self._sock)
            self._sock.close()

    async def _fill(self, wanted: int) -> bool:
        while len(self._buffer) < wanted:
            try:
                chunk = await self._loop.sock_recv(self._sock, _CHUNK)
            except OSError:  # reset by the peer, or closed by us
                return False
            if not chunk:
                return False
            self._buffer += chunk
        return True

    def _flush(self) -> None:
        if self._sock.fileno() < 0:
            self._queue.clear()
        while self._queue:
            head = self._queue[0]
            try:
                sent = self._sock.send(head)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError:
                self._queue.clear()
                break
            if sent == len(head):
                self._queue.popleft()
            else:
                self._queue[0] = head[sent:]
        with contextlib.suppress(OSError, ValueError):
            self._loop.remove_writer(self._sock)
