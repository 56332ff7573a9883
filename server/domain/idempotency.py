"""Requests that may be sent twice and are done once: draft-ietf-httpapi-idempotency-key-header-07."""

import msgspec

from pipelines.contract.errors import AquatintError, InvalidRequest


class KeyInUse(AquatintError):
    """The first request with that key is not answered yet."""

    code = "idempotency_key_in_use"
    retryable = True


class KeyReused(InvalidRequest):
    """That key belongs to a request that was another."""

    code = "idempotency_key_reused"


class AnswerNotKept(InvalidRequest):
    """The request was done, and its answer was too large to keep."""

    code = "answer_not_kept"


class Reservation(msgspec.Struct, frozen=True):
    """A key that is held while its request is at work."""

    tenant: str
    key: str
    fingerprint: str
    """Of method, address and payload: hexadecimal SHA-256."""
    owner: str
    """The process that works on it."""
    resource: str
    """The id of what the request makes, the same however often it must be tried: so that it is made once."""
    again: bool = False
    """Whoever tried before has not answered; the resource may be there."""


class Answer(msgspec.Struct, frozen=True):
    """What was answered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    """None: it was too large to keep."""
    job_id: str | None = None
    """The job that made it."""
