"""Framed messages over a stream socket: four bytes of length, big-endian, then msgpack.

End of file is death, both ways: there is no other sign of life to lose.
"""

import socket
import struct
from collections.abc import Iterator

from pipelines.contract.messages import Command, Event, decode_command, encode

MAX_FRAME = 256 * 1024 * 1024
"""A 4096 x 4096 picture is 48 MiB; anything beyond this is a broken peer."""

_LENGTH = struct.Struct(">I")


class Closed(Exception):
    """The other side is gone."""


class Link:
    """The worker's end; blocking writes, reads only when told that there is something."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._sock = sock
        self._buffer = bytearray()

    def fileno(self) -> int:
        """For selectors."""
        return self._sock.fileno()

    def send(self, event: Event) -> None:
        """Write one event; raises `Closed` when nobody can read it any more."""
        frame = encode(event)
        try:
            self._sock.sendall(_LENGTH.pack(len(frame)) + frame)
        except OSError as error:
            raise Closed from error

    def receive(self) -> Iterator[Command]:
        """The commands that have arrived; blocks if nothing has, raises `Closed` at the end of the stream."""
        try:
            chunk = self._sock.recv(1 << 20)
        except OSError as error:
            raise Closed from error
        if not chunk:
            raise Closed
        self._buffer += chunk
        while (frame := self._take()) is not None:
            yield decode_command(frame)

    def _take(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME:
            msg = f"a frame of {length} bytes is past all limits"
            raise ValueError(msg)
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return frame
