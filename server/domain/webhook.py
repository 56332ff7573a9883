"""Telling others what became of a job: Standard Webhooks 1.0.0 (https://www.standardwebhooks.com)."""

from enum import StrEnum

import msgspec


class Notify(msgspec.Struct, frozen=True):
    """Who wants to hear of a job's end."""

    url: str
    base: str
    """Where that client finds this server: links in the message begin with it."""


class DeliveryState(StrEnum):
    """How it stands with one message."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up after the last attempt."""
    DISABLED = "disabled"
    """Its receiver said that it is gone (410)."""


class Delivery(msgspec.Struct, frozen=True):
    """One message to one receiver."""

    id: str
    """``webhook-id``: the same for every attempt, so that a receiver can tell a repetition."""
    job_id: str
    tenant: str
    url: str
    body: bytes
    """JSON, the same for every attempt."""
    created: float
    """Unix time."""
    due: float
    """Unix time of the next attempt, or until which an attempt is under way."""
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    outcome: str = ""
    """Of the last attempt: a status or an error."""
