"""No name of anything has a NUL in it: PostgreSQL cannot even be asked for one."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler

from pipelines.contract.errors import InvalidRequest

NUL = "\0"


async def refuse_nul(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A guard: nothing is at an address with a NUL in it, and no parameter that a route takes may have one.

    A coroutine, as Litestar would run a function in a thread, for each request.
    """
    if NUL in connection.scope["path"]:
        raise NotFoundException
    if b"%00" not in connection.scope["query_string"]:
        return
    taken = handler.parsed_fn_signature.parameters
    for name, value in connection.query_params.multi_items():
        if name in taken:
            check_nul(value, name)


def check_nul(text: str, param: str) -> None:
    """Raise `InvalidRequest` if there is a NUL in ``text``."""
    if NUL in text:
        msg = f"{param!r} must not have the character NUL in it."
        raise InvalidRequest(msg, param=param)
