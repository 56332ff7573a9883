"""Answers that bring pictures say that a machine has made them: one header, by the tenant's policy."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import BeforeMessageSendHookHandler, Message, Scope

from server.catalog.policies import DEFAULT, Policy

PICTURES = "pictures"
"""Name of a route's option: true if what it answers is pictures that were made here, or leads to them."""
HEADER = (b"x-ai-generated", b"true")


def disclose_for(connection: ASGIConnection[Any, Any, Any, Any], tenant: str) -> None:
    """Note whose picture ``connection`` is answered with, where no key says who asks."""
    connection.state.owner = tenant


def disclosing(policies: Callable[[], Mapping[str, Policy]]) -> BeforeMessageSendHookHandler:
    """The app's hook; ``policies`` are those of the moment, by tenant."""

    async def hook(message: Message, scope: Scope) -> None:
        if message["type"] != "http.response.start" or message["status"] >= HTTPStatus.BAD_REQUEST:
            return
        handler: BaseRouteHandler | None = scope.get("route_handler")
        if handler is not None and handler.opt.get(PICTURES) and _told(policies(), scope):
            message["headers"] = [*message["headers"], HEADER]

    return hook


def _told(policies: Mapping[str, Policy], scope: Scope) -> bool:
    """Whether to tell, by the policy of the caller, who gets only what is its own, or else of the picture's owner."""
    state = scope.get("state", {})
    caller = state.get("caller")
    tenant = state.get("owner", DEFAULT) if caller is None else caller.tenant
    return (policies.get(tenant) or policies[DEFAULT]).disclosure.header
