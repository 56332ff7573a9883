"""Writes down what was decided: a row for everything but what was simply let pass, and numbers for that."""

import asyncio
import contextlib
import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
from structlog.typing import FilteringBoundLogger

from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.decision import Decision
from server.domain.ports.decisions import DecisionRepository
from server.domain.verdict import Action, Stage, Verdict
from server.telemetry.metrics import Metrics

_FLUSH_SECONDS = 5.0
_FORGET_SECONDS = 3600.0


class Keeping(msgspec.Struct, frozen=True):
    """What is kept, and for how long."""

    seconds: float
    prompts: bool = False
    """The text itself, not only its digest."""


class Audit:
    """Owns the numbers that are not in the database yet: a process that is killed loses those of a few seconds."""

    __slots__ = ("_allowed", "_clock", "_closing", "_keeping", "_log", "_metrics", "_repository")

    def __init__(
        self, repository: DecisionRepository, keeping: Keeping, *, clock: Clock, metrics: Metrics, log: FilteringBoundLogger
    ) -> None:
        self._repository, self._keeping = repository, keeping
        self._clock, self._metrics, self._log = clock, metrics, log
        self._allowed: Counter[tuple[str, str, str]] = Counter()
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Audit"]:
        """Inside the block numbers are written down once in a while, and what is past its time is deleted."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(), name="audit of moderation")
            try:
                yield self
            finally:
                self._closing.set()

    def allowed(self, call: Call, stage: Stage, by: str) -> None:
        """Something was let pass."""
        self._metrics.moderated(stage.value, Action.ALLOW.value, by)
        day = datetime.fromtimestamp(self._clock.time(), tz=UTC).date().isoformat()
        self._allowed[day, call.tenant, stage.value] += 1

    async def note(self, call: Call, verdict: Verdict, reasons: tuple[str, ...], prompt: str) -> None:
        """Write down ``verdict``. A database that is away does not change what was decided; the log has it all the same."""
        self._metrics.moderated(verdict.stage.value, verdict.action.value, verdict.by)
        decision = Decision(
            id=f"mod_{secrets.token_hex(12)}",
            time=self._clock.time(),
            tenant=call.tenant,
            job=call.id,
            stage=verdict.stage,
            by=verdict.by,
            action=verdict.action,
            categories=verdict.categories,
            scores=verdict.scores,
            reasons=reasons,
            digest=hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest(),
            image=verdict.image,
            # PostgreSQL holds no NUL in a text.
            prompt=prompt.replace("\0", "\ufffd") if self._keeping.prompts else None,
        )
        self._log.info(
            "moderation",
            job=call.id,
            tenant=call.tenant,
            stage=verdict.stage.value,
            action=verdict.action.value,
            by=verdict.by,
            categories=verdict.categories,
        )
        try:
            await self._repository.add(decision)
        except Exception:  # noqa: BLE001 - whatever a database does
            self._log.exception("a decision of moderation cannot be written down", decision=decision.id)

    async def _keep(self) -> None:
        forgotten = float("-inf")
        while True:
            closing = self._closing.is_set()
            await self._flush()
            if closing:
                return
            if self._clock.monotonic() - forgotten >= _FORGET_SECONDS:
                forgotten = self._clock.monotonic()
                await self._forget()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _FLUSH_SECONDS)

    async def _flush(self) -> None:
        taken, self._allowed = self._allowed, Counter()
        try:
            await self._repository.count(taken)
        except Exception:  # noqa: BLE001 - it comes back
            self._log.exception("the numbers of moderation cannot be written down")
            self._allowed.update(taken)

    async def _forget(self) -> None:
        try:
            while await self._repository.forget(self._clock.time() - self._keeping.seconds):
                pass
        except Exception:  # noqa: BLE001 - it comes back
            self._log.exception("old decisions of moderation cannot be deleted")
