"""Around every HTTP exchange: an id, a clock, a log line, a count."""

import re
import secrets

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from server.domain.clock import Clock
from server.telemetry.metrics import Metrics

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Tracing:
    """Wraps the whole app, so that answers to unknown addresses are traced too."""

    __slots__ = ("_app", "_clock", "_log", "_metrics")

    def __init__(self, app: ASGIApp, *, metrics: Metrics, clock: Clock, log: FilteringBoundLogger) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = self._clock.monotonic()
        request_id = _request_id(scope)
        status = 0
        path = scope["path"]
        openai = path.startswith("/v1/")

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(b"x-request-id", request_id.encode())]
                if openai:
                    passed = round((self._clock.monotonic() - began) * 1000)
                    extra += [(b"openai-processing-ms", str(passed).encode()), (b"openai-version", b"2020-10-01")]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, traced)
            finally:
                seconds = self._clock.monotonic() - began
                route = str(scope.get("path_template") or "none") if status != 0 else "none"
                verb = str(scope.get("method"))
                method = verb if verb in _METHODS else "other"
                self._metrics.request(route, method, status, seconds)
                if path not in _QUIET:
                    self._log.info("answered", method=method, path=path, status=status, seconds=round(seconds, 4))


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-client-request-id" and _SANE_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{secrets.token_hex(12)}"
