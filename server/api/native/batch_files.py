"""The file of a batch as it comes in: onto the disk if it is large, and from there in portions."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import msgspec
from litestar import Request
from litestar.datastructures import UploadFile

from pipelines.contract.errors import InvalidRequest
from server.api.bodies import from_form
from server.api.forms import is_form, parts
from server.api.idempotency import CHUNK, digest_of_form
from server.api.native.batch_bodies import BatchHead
from server.api.native.batch_lines import checked

AnyRequest = Request[Any, Any, Any]

_MOST_LINES, _MOST_BYTES = 128, 4 << 20
"""Of one portion."""
MOST_LINE = 64 << 20
"""Bytes of one line."""
_TYPES = "application/x-ndjson, application/jsonl, or multipart/form-data with the file in 'file'"
_BOM = b"\xef\xbb\xbf"


class Sent(msgspec.Struct, frozen=True):
    """What was sent as a batch."""

    file: IO[bytes]
    head: BatchHead | None
    """What the fields of a form say beside the file."""
    digest: str
    """Of all of it."""


@asynccontextmanager
async def received(request: AnyRequest) -> AsyncIterator[Sent]:
    """The whole of what is sent; the file is there until the end of the block."""
    if is_form(request):
        yield await _from_form(request)
        return
    found = hashlib.sha256()
    with SpooledTemporaryFile(max_size=CHUNK) as file:
        gathered = bytearray()
        async for data in request.stream():
            gathered += data
            if len(gathered) >= CHUNK:
                await asyncio.to_thread(_put, file, found, bytes(gathered))
                gathered.clear()
        await asyncio.to_thread(_put, file, found, bytes(gathered))
        file.seek(0)
        yield Sent(file, None, found.hexdigest())


async def portions(file: IO[bytes]) -> AsyncIterator[list[tuple[int, bytes]]]:
    """The lines that are not empty, with their numbers from 1, some at once.

    A line of more than `MOST_LINE` bytes is the last, cut to one byte more than that.
    """
    lines = _numbered(file)
    while portion := await asyncio.to_thread(_portion, lines):
        yield portion


async def _from_form(request: AnyRequest) -> Sent:
    if request.headers.get("content-type", "").lower().startswith("application/x-www-form-urlencoded"):
        msg = f"A batch is sent as {_TYPES}."
        raise InvalidRequest(msg)
    fields: dict[str, Any] = {}
    files: list[UploadFile] = []
    for name, value in await parts(request):
        if isinstance(value, UploadFile) and name == "file" and not files:
            files.append(value)
        elif isinstance(value, UploadFile) or name in fields or name == "file":
            msg = f"The form must have one file, in the field 'file'; {name!r} is too much."
            raise InvalidRequest(msg, param=name)
        else:
            fields[name] = value
    if not files:
        msg = "The form must have one file, in the field 'file'."
        raise InvalidRequest(msg, param="file")
    head = checked(from_form(fields, BatchHead)) if fields else None
    return Sent(files[0].file, head, await digest_of_form(request))


def _put(file: IO[bytes], digest: Any, data: bytes) -> None:
    digest.update(data)
    file.write(data)


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while data := file.readline(MOST_LINE + 1):
        number += 1
        line = data.removeprefix(_BOM) if number == 1 else data
        if line.strip():
            yield number, line
        if len(data) > MOST_LINE:
            return


def _portion(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    size = 0
    for number, data in lines:
        found.append((number, data))
        size += len(data)
        if len(found) >= _MOST_LINES or size >= _MOST_BYTES:
            break
    return found
