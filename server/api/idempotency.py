"""``Idempotency-Key`` on every POST: the same request once more gets the same answer.

`Replaying` asks for the key once it is known who calls and what was sent, before the route begins; `Recording` stands around the
whole application, sees what was answered, and has it kept.
"""

import asyncio
import hashlib
import json
import re
from typing import Any, cast

from litestar import Request, Response
from litestar.datastructures import UploadFile
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPResponseStartEvent, Message, Receive, Scope, Send

from pipelines.contract.errors import InvalidRequest
from server.access.idempotency import Keeper
from server.api.forms import is_form, parts
from server.api.guard import tenant_of
from server.domain.idempotency import Answer, AnswerNotKept, Reservation
from server.jobs.service import new_id

AnyRequest = Request[Any, Any, Any]

HEADER, REPLAYED = "Idempotency-Key", "Idempotent-Replayed"
BY_ITSELF = "idempotency_by_itself"
"""Name of a route's option: it reads its body, and asks for the key, by itself."""

_HELD = "aquatint.idempotency"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT = frozenset({400, 404, 410, 413, 415, 422})
"""Refusals that would be the same again; others may be tried again with the same key."""
_OF_THE_MOMENT = re.compile(r"content-length|date|x-request-id|set-cookie|retry-after.*|(x-)?ratelimit.*")
"""Headers that say something about one exchange only."""
CHUNK = 1 << 20
"""Bytes of a file that are read at once."""


class _Held:
    """What is known of one exchange, from the inside to the outside."""

    __slots__ = ("job_id", "reservation")

    def __init__(self) -> None:
        self.reservation: Reservation | None = None
        self.job_id: str | None = None


class Replaying:
    """Litestar's hook before a route: the answer of a request that was answered before, or None."""

    __slots__ = ("_keeper",)

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def __call__(self, request: AnyRequest) -> Response[Any] | None:
        """Ask for the key, unless there is none or the route does so by itself."""
        if request.method != "POST" or HEADER not in request.headers or request.route_handler.opt.get(BY_ITSELF):
            return None
        return await self.begin(request, await _digest(request))

    async def begin(self, request: AnyRequest, digest: str) -> Response[Any] | None:
        """Take the key of ``request``, whose payload has that digest, or return what was answered.

        Raises `InvalidRequest` for what is no key, `KeyInUse`, `KeyReused`, `AnswerNotKept`.
        """
        held: _Held | None = request.scope.get(_HELD)  # type: ignore[assignment] # our own entry
        if held is None or HEADER not in request.headers:
            return None
        key = _key(request.headers[HEADER])
        query = request.scope["query_string"].decode("latin-1")
        said = "\n".join((request.method, request.scope["path"], query, digest))
        found = await self._keeper.reserve(tenant_of(request), key, hashlib.sha256(said.encode()).hexdigest())
        if isinstance(found, Answer):
            return _again(found)
        held.reservation = found
        return None


def refuse_key(request: AnyRequest) -> None:
    """Raise if there is a key: a stream of events cannot be answered twice."""
    if HEADER in request.headers:
        msg = f"{HEADER!r} does not go with a streamed answer; leave one of them out, or use POST /api/jobs."
        raise InvalidRequest(msg, param=HEADER)


def chosen_id(request: AnyRequest) -> str:
    """An id for what ``request`` makes: the same for every attempt with one key, so that it is made once."""
    held: _Held | None = request.scope.get(_HELD)  # type: ignore[assignment] # our own entry
    return new_id() if held is None or held.reservation is None else held.reservation.resource


def tried_before(request: AnyRequest) -> bool:
    """Whether a server has died over this very request, and what it makes may be there."""
    held: _Held | None = request.scope.get(_HELD)  # type: ignore[assignment] # our own entry
    return held is not None and held.reservation is not None and held.reservation.again


def made_by(request: AnyRequest, job_id: str) -> None:
    """Remember which job answers ``request``."""
    held: _Held | None = request.scope.get(_HELD)  # type: ignore[assignment] # our own entry
    if held is not None:
        held.job_id = job_id


class Recording:
    """Wraps the application: answers to requests with a key are kept before they are sent."""

    __slots__ = ("_app", "_keeper")

    def __init__(self, app: ASGIApp, keeper: Keeper) -> None:
        self._app, self._keeper = app, keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        keyed = scope["type"] == ScopeType.HTTP and any(name == b"idempotency-key" for name, _ in scope["headers"])
        if not keyed or scope.get("method") != "POST":
            await self._app(scope, receive, send)
            return
        held = _Held()
        scope[_HELD] = held  # type: ignore[literal-required] # our own entry
        start: HTTPResponseStartEvent | None = None

        async def recorded(message: Message) -> None:
            nonlocal start
            if held.reservation is None:
                await send(message)
            elif message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body" and start is not None:
                # Kept before it is sent: who has the answer gets it again.
                answer = None if message.get("more_body") else _answer(start, message["body"], held)
                reservation, held.reservation = held.reservation, None
                await self._keeper.settle(reservation, answer)
                await send(start)
                await send(message)

        async def patient() -> HTTPReceiveMessage:
            """Who sends a key comes again for the answer: hanging up does not cancel the work."""
            message = cast("HTTPReceiveMessage", await receive())
            if message["type"] == "http.disconnect" and held.reservation is not None:
                await asyncio.Event().wait()  # until whoever listens has enough
            return message

        try:
            await self._app(scope, patient, recorded)
        finally:
            if held.reservation is not None:
                await self._keeper.settle(held.reservation, None)


async def digest_of(file: UploadFile) -> str:
    """SHA-256 of a file that was sent, which can be read from its beginning afterwards."""
    found = hashlib.sha256()
    await file.seek(0)
    while chunk := await file.read(CHUNK):
        found.update(chunk)
    await file.seek(0)
    return found.hexdigest()


async def digest_of_form(request: AnyRequest) -> str:
    """SHA-256 of the parts of a form, in order: neither boundaries nor the writing of part headers matter."""
    shown = [
        [name, value.filename, value.content_type, await digest_of(value)] if isinstance(value, UploadFile) else [name, value]
        for name, value in await parts(request)
    ]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


async def _digest(request: AnyRequest) -> str:
    if is_form(request):
        return await digest_of_form(request)
    body = await request.body()
    # A large body would hold up everybody.
    found = hashlib.sha256(body) if len(body) < CHUNK else await asyncio.to_thread(hashlib.sha256, body)
    return found.hexdigest()


def _key(header: str) -> str:
    """The key: a structured field's string (RFC 9651 §3.3.3), or as it stands."""
    text = header.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if not _KEY.fullmatch(text):
        msg = f"{HEADER!r} must have from 1 to 255 visible ASCII characters."
        raise InvalidRequest(msg, param=HEADER)
    return text


def _again(answer: Answer) -> Response[Any]:
    if answer.body is None:
        where = "" if answer.job_id is None else f" Its images are in GET /api/jobs/{answer.job_id}."
        msg = f"That request was done, and answered with {answer.status}; the answer was too large to keep.{where}"
        raise AnswerNotKept(msg, param=HEADER)
    headers = {name: value for name, value in answer.headers if name != "content-type"}
    media = next((value for name, value in answer.headers if name == "content-type"), None)
    return Response(answer.body, status_code=answer.status, media_type=media, headers={**headers, REPLAYED: "true"})


def _answer(start: HTTPResponseStartEvent, body: bytes, held: _Held) -> Answer | None:
    """What is to be kept; None if the request may be tried again."""
    status = start["status"]
    if not (200 <= status < 300 or status in _KEPT):  # noqa: PLR2004 - any success
        return None
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start["headers"])
    return Answer(status, tuple(each for each in headers if not _OF_THE_MOMENT.fullmatch(each[0])), body, held.job_id)
