"""Errors as HTTP answers: the only place that knows a status code for an error."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Literal

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandler
from structlog.typing import FilteringBoundLogger

from pipelines.contract import errors
from server.domain import failures, idempotency
from server.domain.verdict import Stage

CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it; it is for the log and the metrics."""


class TooManyBytes(errors.TooLarge):
    """A request body or a file is over the limit in bytes."""

    code = "too_many_bytes"


class UnknownAsset(errors.InvalidRequest):
    """No upload of this caller has that id, or not any more."""

    code = "asset_not_found"


class Unauthorized(errors.AquatintError):
    """No key, or one that opens nothing."""

    code = "invalid_api_key"


class Forbidden(errors.AquatintError):
    """A key that does not open this."""

    code = "forbidden"


class UnknownJob(errors.InvalidRequest):
    """No job of that id is the caller's."""

    code = "unknown_job"


class LinkInvalid(errors.AquatintError):
    """A link to a result that this server has not made like that."""

    code = "link_invalid"


class LinkExpired(errors.AquatintError):
    """A link to a result whose time is over."""

    code = "link_expired"


class RangeNotSatisfiable(errors.AquatintError):
    """A range that begins after the end of the file."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None, size: int = 0) -> None:
        """Keep the ``size`` of the file, in bytes."""
        super().__init__(message, param=param, retry_after=retry_after)
        self.size = size


class ModerationDetails(msgspec.Struct, frozen=True):
    """Why moderation refused, as OpenAI says it."""

    moderation_stage: Literal["input", "output"]
    categories: tuple[str, ...]


class UnknownBatch(errors.InvalidRequest):
    """No batch of that id is the caller's."""

    code = "unknown_batch"


class LineProblem(msgspec.Struct, frozen=True):
    """What is wrong with one line of a file."""

    line: int
    """From 1."""
    custom_id: str | None
    code: str | None
    message: str
    param: str | None


class BatchRefused(errors.InvalidRequest):
    """Some lines of a batch cannot be accepted, and so none is."""

    code = "invalid_batch"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        lines: tuple[LineProblem, ...] = (),
    ) -> None:
        """Keep what is wrong with each of ``lines``."""
        super().__init__(message, param=param, retry_after=retry_after)
        self.lines = lines


class Problem(msgspec.Struct, frozen=True):
    """An error, with all that any dialect's envelope needs."""

    status: int
    kind: str
    code: str | None
    message: str
    param: str | None = None
    retry_after: float | None = None
    retry: bool | None = None
    """What to tell clients that ask before repeating; None says nothing."""
    size: int | None = None
    """Bytes of a file of which another part was asked for than there is."""
    moderation: ModerationDetails | None = None
    lines: tuple[LineProblem, ...] = ()


class _Rule(msgspec.Struct, frozen=True):
    status: int
    kind: str
    code: str | None = None
    """None: the error's own."""


_INVALID, _SERVER = "invalid_request_error", "server_error"

_RULES: Mapping[type[errors.AquatintError], _Rule] = {
    errors.AquatintError: _Rule(HTTPStatus.INTERNAL_SERVER_ERROR, _SERVER),
    errors.InvalidRequest: _Rule(HTTPStatus.BAD_REQUEST, _INVALID),
    errors.UnknownModel: _Rule(HTTPStatus.NOT_FOUND, _INVALID, "model_not_found"),
    UnknownAsset: _Rule(HTTPStatus.NOT_FOUND, _INVALID),
    failures.ModerationBlocked: _Rule(HTTPStatus.BAD_REQUEST, "image_generation_user_error"),
    failures.ModerationUnavailable: _Rule(HTTPStatus.SERVICE_UNAVAILABLE, _SERVER),
    failures.BudgetSpent: _Rule(HTTPStatus.TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota"),
    failures.RateLimited: _Rule(HTTPStatus.TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded"),
    failures.UpstreamFailure: _Rule(HTTPStatus.BAD_GATEWAY, _SERVER),
    failures.UpstreamUnavailable: _Rule(HTTPStatus.SERVICE_UNAVAILABLE, _SERVER),
    failures.UpstreamAmbiguous: _Rule(HTTPStatus.GATEWAY_TIMEOUT, _SERVER),
    TooManyBytes: _Rule(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _INVALID),
    Unauthorized: _Rule(HTTPStatus.UNAUTHORIZED, _INVALID),
    UnknownJob: _Rule(HTTPStatus.NOT_FOUND, _INVALID),
    UnknownBatch: _Rule(HTTPStatus.NOT_FOUND, _INVALID),
    idempotency.KeyInUse: _Rule(HTTPStatus.CONFLICT, _INVALID),
    idempotency.KeyReused: _Rule(HTTPStatus.UNPROCESSABLE_ENTITY, _INVALID),
    idempotency.AnswerNotKept: _Rule(HTTPStatus.GONE, _INVALID),
    Forbidden: _Rule(HTTPStatus.FORBIDDEN, _INVALID),
    LinkInvalid: _Rule(HTTPStatus.FORBIDDEN, _INVALID),
    LinkExpired: _Rule(HTTPStatus.FORBIDDEN, _INVALID),
    RangeNotSatisfiable: _Rule(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, _INVALID),
    failures.StorageFailure: _Rule(HTTPStatus.SERVICE_UNAVAILABLE, _SERVER),
    failures.StorageFull: _Rule(HTTPStatus.INSUFFICIENT_STORAGE, _SERVER),
    errors.Overloaded: _Rule(HTTPStatus.TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded"),
    errors.ShuttingDown: _Rule(HTTPStatus.SERVICE_UNAVAILABLE, _SERVER),
    errors.Cancelled: _Rule(CLIENT_CLOSED_REQUEST, _INVALID),
    errors.DeadlineExceeded: _Rule(HTTPStatus.GATEWAY_TIMEOUT, _SERVER),
    errors.WorkerLost: _Rule(HTTPStatus.SERVICE_UNAVAILABLE, _SERVER),
}
"""The rule of the nearest ancestor holds."""


def problem(error: Exception) -> Problem:
    """What to answer; an error nobody foresaw says nothing about itself."""
    if isinstance(error, errors.AquatintError):
        rule = next(_RULES[kind] for kind in type(error).__mro__ if kind in _RULES)
        later = rule.status >= HTTPStatus.TOO_MANY_REQUESTS or rule.status == HTTPStatus.CONFLICT
        return Problem(
            status=int(rule.status),
            kind=rule.kind,
            code=rule.code or error.code,
            message=error.message,
            param=error.param,
            retry_after=error.retry_after,
            retry=error.retryable if later else None,
            size=error.size if isinstance(error, RangeNotSatisfiable) else None,
            moderation=_details(error),
            lines=error.lines if isinstance(error, BatchRefused) else (),
        )
    if isinstance(error, HTTPException) and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _litestar(error)
    return Problem(
        status=int(HTTPStatus.INTERNAL_SERVER_ERROR),
        kind=_SERVER,
        code="internal_error",
        message="The server made a mistake. It is in the log under this answer's x-request-id.",
    )


def _details(error: errors.AquatintError) -> ModerationDetails | None:
    verdicts = error.verdicts if isinstance(error, failures.ModerationBlocked) else ()
    if not verdicts:
        return None
    stage: Literal["input", "output"] = "output" if verdicts[0].stage is Stage.OUTPUT else "input"
    return ModerationDetails(stage, tuple(dict.fromkeys(category for each in verdicts for category in each.categories)))


def _litestar(error: HTTPException) -> Problem:
    code = {
        HTTPStatus.NOT_FOUND: "not_found",
        HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: errors.TooLarge.code,
    }
    message = {
        HTTPStatus.NOT_FOUND: "There is nothing at this address.",
        HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take this method.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The request body is too large.",
    }
    status = HTTPStatus(error.status_code)
    return Problem(
        status=int(status), kind=_INVALID, code=code.get(status), message=message.get(status, error.detail or status.phrase)
    )


def openai_envelope(found: Problem) -> dict[str, Any]:
    """The body OpenAI's clients read; all four keys are always there."""
    error = {"message": found.message, "type": found.kind, "param": found.param, "code": found.code}
    more = {} if found.moderation is None else {"moderation_details": msgspec.to_builtins(found.moderation)}
    return {"error": {**error, **more}}


def native_envelope(found: Problem) -> dict[str, Any]:
    """The body of the native dialect; its four keys are always there, and ``lines`` where several are wrong."""
    told: dict[str, Any] = {
        "code": found.code,
        "message": found.message,
        "param": found.param,
        "retryable": bool(found.retry),
    }
    if found.lines:
        told["lines"] = [msgspec.to_builtins(line) for line in found.lines]
    return {"error": told}


def plain_envelope(found: Problem) -> dict[str, Any]:
    """The body outside of any dialect."""
    return {"detail": found.message, "code": found.code}


Envelope = Callable[[Problem], dict[str, Any]]


def headers(found: Problem) -> dict[str, str]:
    """When and whether to try again."""
    told: dict[str, str] = {}
    if found.retry_after is not None:
        told["Retry-After"] = str(max(1, round(found.retry_after)))
        told["retry-after-ms"] = str(max(1, round(found.retry_after * 1000)))
    if found.retry is not None:
        told["x-should-retry"] = "true" if found.retry else "false"
    if found.size is not None:
        told["Content-Range"] = f"bytes */{found.size}"
    if found.status == HTTPStatus.UNAUTHORIZED:
        told["WWW-Authenticate"] = "Bearer"
    return told


def renderer(envelopes: Mapping[str, Envelope], log: FilteringBoundLogger) -> "ExceptionHandler[Exception]":
    """The app's exception handler. It chooses the dialect by path, as 404 and 405 never reach a dialect's router."""

    def render(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
        found = problem(error)
        if found.code == "internal_error":
            log.error("unforeseen error", path=request.url.path, exc_info=error)
        path = request.url.path
        envelope = next((make for prefix, make in envelopes.items() if path.startswith(prefix)), plain_envelope)
        return Response(envelope(found), status_code=found.status, headers=headers(found), media_type="application/json")

    return render
