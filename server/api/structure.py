"""Files made of very many very small parts: refused before a decoder walks through them.

Pixels are bounded elsewhere; these are other ways to keep a decoder busy. Measured with Pillow 13: each scan of a progressive
JPEG of 32 megapixels costs 5 ms and needs 53 bytes, so 50 MB of them would take over an hour; each empty segment costs 2 µs,
with Python's lock held, and 35 bytes of memory for each of its own.
"""

import re

from pipelines.contract.errors import BadPicture
from server.storage.kinds import media_type

MOST_SCANS = 100
"""Encoders write about ten."""
MOST_PARTS = 100_000
"""Segments, chunks or blocks: PNGs of 50 MB have 6,400 as encoders usually write them."""
MOST_PADDING = 1000
"""Bytes between two segments of a JPEG; encoders write none."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Of JPEG, but for those that stand inside of a scan."""
_ALONE, _END, _SCAN = frozenset({0x01, 0xD8}), 0xD9, 0xDA
_EXTENSION, _GIF_HEADER, _GIF_TABLE = 0x21, 13, 0x80
_CHUNK = 12


def check_structure(data: bytes, param: str) -> None:
    """Raise `BadPicture` if ``data`` has more parts than a picture needs; whether it is one is for its decoder to say."""
    found = {"image/jpeg": _jpeg, "image/png": _png, "image/gif": _gif}.get(media_type(data) or "", _nothing)(data)
    if found is not None:
        msg = f"{param!r} is not a usable image: {found}, which no picture needs."
        raise BadPicture(msg, param=param)


def _nothing(_data: bytes) -> str | None:
    """Decoders of other formats are not slowed down by parts."""


def _jpeg(data: bytes) -> str | None:
    place, parts, scans = 2, 0, 0
    while (marker := _MARKER.search(data, place)) is not None:
        if scans == 0 and marker.start() - place > MOST_PADDING:
            return f"it has more than {MOST_PADDING} bytes of padding"
        kind, place = data[marker.start() + 1], marker.end()
        if kind == _END:
            break
        parts, scans = parts + 1, scans + (kind == _SCAN)
        if scans > MOST_SCANS:
            return f"it has more than {MOST_SCANS} scans"
        if parts > MOST_PARTS:
            return f"it has more than {MOST_PARTS} segments"
        if kind not in _ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
    return None


def _png(data: bytes) -> str | None:
    place, parts = 8, 0
    while place < len(data):
        parts += 1
        if parts > MOST_PARTS:
            return f"it has more than {MOST_PARTS} chunks"
        place += _CHUNK + int.from_bytes(data[place : place + 4], "big")
    return None


def _gif(data: bytes) -> str | None:
    """What stands before the first frame: nothing behind it is read."""
    flags = data[10] if len(data) > _GIF_HEADER else 0
    place, parts = _GIF_HEADER + (3 << ((flags & 7) + 1) if flags & _GIF_TABLE else 0), 0
    inside = False
    while place < len(data):
        parts += 1
        if parts > MOST_PARTS:
            return f"it has more than {MOST_PARTS} blocks"
        if inside:
            inside = data[place] != 0
            place += 1 + data[place]
        elif data[place] == _EXTENSION:
            inside = True
            place += 2
        elif data[place] in b",;":
            break
        else:
            place += 1
    return None
