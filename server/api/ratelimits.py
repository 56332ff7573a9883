"""What a caller may still ask for, as headers that OpenAI's clients know."""

from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from server.access.limits import Allowances, Rate

_WORKING = ("/v1/images/", "/api/generate", "/api/jobs", "/api/batches")
_MINUTE, _HOUR = 60, 3600


class RateHeaders:
    """Wraps the whole app: answers to callers who have a limit say how they stand, refusals too."""

    __slots__ = ("_allowances", "_app")

    def __init__(self, app: ASGIApp, allowances: Allowances) -> None:
        self._app, self._allowances = app, allowances

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != ScopeType.HTTP or not scope["path"].startswith(_WORKING):
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Put there by the guard, so only those who were let in are told.
                caller: Any = scope["state"].get("caller")
                rate = None if caller is None else self._allowances.rate(caller.tenant)
                if rate is not None:
                    message["headers"] = [*message["headers"], *_headers(rate)]
            await send(message)

        await self._app(scope, receive, told)


def _headers(rate: Rate) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-requests", str(rate.limit).encode()),
        (b"x-ratelimit-remaining-requests", str(rate.remaining).encode()),
        (b"x-ratelimit-reset-requests", duration(rate.reset).encode()),
    ]


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: ``20ms``, ``1s``, ``6m0s``, ``1h0m0s``."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE}s"
    return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE}m{whole % _MINUTE}s"
