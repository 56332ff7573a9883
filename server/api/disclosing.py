"""Answers that bring pictures say that a machine has made them: one header, by the tenant's policy."""

from collections.abc import Callable, Mapping
from http import HTTPStatus

from litestar.handlers import BaseRouteHandler
from litestar.types import BeforeMessageSendHookHandler, Message, Scope

from server.catalog.policies import DEFAULT, Policy

PICTURES = "pictures"
"""Name of a route's option: true if what it answers is pictures that were made here, or leads to them."""
HEADER = (b"x-ai-generated", b"true")


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
    """Whether to tell whoever asks. A stored file does not know its tenant: there it is told if anybody wants it told."""
    caller = scope.get("state", {}).get("caller")
    if caller is None:
        return any(policy.disclosure.header for policy in policies.values())
    return (policies.get(caller.tenant) or policies[DEFAULT]).disclosure.header
