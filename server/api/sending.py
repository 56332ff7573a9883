"""A stored image as an answer: whole or a part of it (RFC 9110 §14), or the word that the client has it already (§13)."""

import re
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from litestar import Request, Response
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.response import Stream

from server.api.errors import RangeNotSatisfiable
from server.domain.ports.assets import AssetStore
from server.domain.stored import Stored

STATUSES: Mapping[str, str] = {
    "206": "A part of the file: one range was asked for.",
    "304": "The client has it: `If-None-Match` names its `ETag`.",
}
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def sent(request: Request[Any, Any, Any], stored: Stored, store: AssetStore, cache_control: str) -> Response[Any]:
    """The answer to a GET or HEAD for ``stored``; raises `RangeNotSatisfiable`, and 404 if the file is gone."""
    size, etag = stored.asset.size, f'"{stored.digest}"'
    told = {"ETag": etag, "Cache-Control": cache_control, "Accept-Ranges": "bytes", **SAFE}
    if _named(request.headers.get("if-none-match"), etag):
        return Response(None, status_code=int(HTTPStatus.NOT_MODIFIED), headers=told)
    start, stop = 0, size
    part = None
    head = request.method == HttpMethod.HEAD
    # A date as If-Range cannot tell two versions apart, and is never ours: then all of it is sent.
    if not head and request.headers.get("if-range", etag) == etag:
        part = span(request.headers.get("range"), size)
    if part is not None:
        start, stop = part
        told["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    told["Content-Length"] = str(stop - start)
    pieces = _nothing() if head else await store.open(stored, start, stop)
    if pieces is None:
        raise NotFoundException
    status = int(HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT)
    return Stream(pieces, status_code=status, media_type=stored.asset.format.media_type, headers=told)


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of a single range; None for what means the whole file.

    Raises `RangeNotSatisfiable` if it begins after the end. Several ranges at once, and what is none, mean the whole file.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, stop = max(0, size - int(found[2])), size
    else:
        start, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= size or start >= stop:
        msg = f"The file has {size} bytes; the range that was asked for is not among them."
        raise RangeNotSatisfiable(msg, size=size)
    return start, stop


def _named(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match has ``etag``; the comparison is weak, as it is to be."""
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return etag in tags or "*" in tags


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
