"""The doorkeeper of routes that need a key."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from server.access.keys import KeyRing
from server.api.errors import Unauthorized

AnyConnection = ASGIConnection[Any, Any, Any, Any]


def key_guard(keys: KeyRing) -> Guard:
    """A guard that lets in whoever presents one of ``keys``, and notes who it is."""

    def guard(connection: AnyConnection, _handler: BaseRouteHandler) -> None:
        tenant = keys.tenant(_presented(connection))
        if tenant is None:
            msg = "Incorrect or missing API key: send 'Authorization: Bearer KEY'."
            raise Unauthorized(msg)
        connection.state.tenant = tenant

    return guard


def tenant_of(connection: AnyConnection) -> str:
    """Who calls, as the guard found out."""
    return str(connection.state.tenant)


def _presented(connection: AnyConnection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return connection.headers.get("api-key")  # how Azure's clients present it
