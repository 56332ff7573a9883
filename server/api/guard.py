"""The doorkeeper of routes that need a key."""

import base64
import binascii
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard
from msgspec.structs import replace

from server.access.keys import KeyRing
from server.api.errors import Forbidden, Unauthorized
from server.domain.generation import AUTO
from server.domain.job import Order
from server.domain.key import Caller, Scope

AnyConnection = ASGIConnection[Any, Any, Any, Any]


SCOPE = "scope"
"""Name of a route's option: what a key must open for it; `Scope.GENERATE` where it is not said."""


def key_guard(keys: KeyRing) -> Guard:
    """A guard that lets in whoever presents a key that opens the route, and notes who it is."""

    async def guard(connection: AnyConnection, handler: BaseRouteHandler) -> None:
        scope = handler.opt.get(SCOPE, Scope.GENERATE)
        caller = await keys.caller(_presented(connection))
        if caller is None:
            msg = "Incorrect or missing API key: send 'Authorization: Bearer KEY'."
            raise Unauthorized(msg)
        if not caller.may(scope):
            msg = f"This key does not open that: it takes one with the scope {scope.value!r}."
            raise Forbidden(msg)
        connection.state.caller = caller

    return guard


def caller_of(connection: AnyConnection) -> Caller:
    """Who calls, as the guard found out."""
    caller: Caller = connection.state.caller
    return caller


def tenant_of(connection: AnyConnection) -> str:
    """For whom it is."""
    return caller_of(connection).tenant


def permitted(connection: AnyConnection, order: Order) -> Order:
    """``order`` within what the caller's key may use, now and whatever road it takes later; raises `Forbidden`.

    Whoever leaves the choice to the server needs `AUTO` among the key's models, beside those to choose from.
    """
    caller = caller_of(connection)
    named = (*((AUTO,) if order.road == AUTO else ()), *order.request.models)
    refused = [model for model in named if not caller.may_use(model)]
    if refused:
        msg = f"This key may not use the model {refused[0]!r}; it may use {', '.join(sorted(caller.models))}."
        raise Forbidden(msg, param="model")
    return replace(order, wishes=replace(order.wishes, allowed=tuple(sorted(caller.models))))


def _presented(connection: AnyConnection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() == "bearer" and token:
        return token
    if scheme.lower() == "basic" and token:
        return _password(token)
    return connection.headers.get("api-key")  # how Azure's clients present it


def _password(token: str) -> str | None:
    """Clients of AUTOMATIC1111 know a user and a password; the key is the password, whoever the user."""
    try:
        _, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return password or None
