"""Delivers the outbox: signed, retried on the documented schedule, at least once."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpcore
from msgspec.structs import replace
from standardwebhooks import Webhook
from structlog.typing import FilteringBoundLogger

from server.domain.asset import Asset
from server.domain.batch import OPEN, Batch, LineState, Standing
from server.domain.clock import Clock
from server.domain.job import Job
from server.domain.ports.deliveries import DeliveryRepository
from server.domain.webhook import Delivery, DeliveryState
from server.egress.guarded import Forbidden

SCHEDULE = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds between an attempt and the one before it: Standard Webhooks' example."""

_JITTER = 0.1
_TIMEOUT = 20.0
_AT_ONCE = 16
_MOST_WAIT = 30.0
"""The outbox is looked into at least so often: other servers and ``aquatint webhooks resend`` put messages there too."""

_MOST_OUTCOME = 512
"""Characters of what is noted of an attempt: the column's width."""

_GONE, _THROTTLED = 410, frozenset({429, 502, 503, 504})


class Courier:
    """Sends what is due. Several servers may do so over one database: each attempt is one server's."""

    __slots__ = ("_clock", "_closing", "_log", "_news", "_pool", "_repository", "_secrets", "_spread")

    def __init__(
        self,
        repository: DeliveryRepository,
        pool: httpcore.AsyncConnectionPool,
        secrets: tuple[str, ...],
        *,
        clock: Clock,
        log: FilteringBoundLogger,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """``secrets`` (``whsec_...``) all sign each message, so that receivers can change from one to the next.

        ``pool`` leads only where clients may have us connect to. ``spread`` is uniform in 0..1.
        """
        self._repository, self._pool, self._clock, self._log = repository, pool, clock, log
        self._secrets = tuple(Webhook(secret) for secret in secrets)
        self._spread = spread
        self._news, self._closing = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Courier"]:
        """Inside the block messages are sent; an attempt under way at its end is finished."""
        async with self._pool, asyncio.TaskGroup() as group:
            group.create_task(self._work(), name="deliver webhooks")
            try:
                yield self
            finally:
                self._closing.set()
                self._news.set()

    def look(self) -> None:
        """There may be something in the outbox."""
        self._news.set()

    async def _work(self) -> None:
        while not self._closing.is_set():
            self._news.clear()
            wait = _MOST_WAIT
            try:
                due = await self._repository.claim(self._clock.time() + 2 * _TIMEOUT, _AT_ONCE)
                await asyncio.gather(*(self._attempt(delivery) for delivery in due))
                if due:
                    continue
                soonest = await self._repository.next_due()
                wait = _MOST_WAIT if soonest is None else min(max(soonest - self._clock.time(), 0.0), _MOST_WAIT)
            except Exception:  # noqa: BLE001 - a database that is away comes back
                self._log.exception("webhooks cannot be delivered")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait)

    async def _attempt(self, delivery: Delivery) -> None:
        status, outcome, asked = await self._post(delivery)
        attempts, now = delivery.attempts + 1, self._clock.time()
        state, due = DeliveryState.PENDING, now
        if status is not None and 200 <= status < 300:  # noqa: PLR2004 - any success will do
            state = DeliveryState.DELIVERED
        elif status == _GONE:
            state = DeliveryState.DISABLED
        elif attempts >= len(SCHEDULE):
            state = DeliveryState.FAILED
        else:
            due = now + max(SCHEDULE[attempts] * (1 + _JITTER * self._spread()), asked)
        await self._repository.note(replace(delivery, state=state, attempts=attempts, due=due, outcome=outcome))
        self._log.info("webhook", id=delivery.id, job=delivery.job_id, attempt=attempts, state=state.value, outcome=outcome)

    async def _post(self, delivery: Delivery) -> tuple[int | None, str, float]:
        """The status, or None without an answer; what to note of it; and for how long the receiver wants to be left alone."""
        limits = dict.fromkeys(("connect", "read", "write", "pool"), _TIMEOUT)
        try:
            async with asyncio.timeout(_TIMEOUT):
                response = await self._pool.request(
                    "POST",
                    delivery.url,
                    headers=self._headers(delivery),
                    content=delivery.body,
                    extensions={"timeout": limits},
                )
        except TimeoutError:
            return None, f"no answer within {_TIMEOUT:g} s", 0.0
        except Forbidden as error:
            return None, str(error)[:_MOST_OUTCOME], 0.0
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.UnsupportedProtocol) as error:
            return None, _named(error), 0.0
        except Exception as error:  # noqa: BLE001 - whatever one address brings about, it is noted, and holds up nobody else's
            self._log.exception("webhook cannot be sent", id=delivery.id)
            return None, _named(error), 0.0
        asked = _retry_after(response, self._clock.time()) if response.status in _THROTTLED else 0.0
        return response.status, str(response.status), asked

    def _headers(self, delivery: Delivery) -> dict[bytes | str, bytes | str]:
        now = int(self._clock.time())
        # `sign` takes the clock's face for UTC whatever the zone.
        moment = datetime.fromtimestamp(now, tz=UTC)
        signatures = [secret.sign(delivery.id, moment, delivery.body.decode()) for secret in self._secrets]
        return {
            "content-type": "application/json",
            "user-agent": "aquatint",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(now),
            **({"webhook-signature": " ".join(signatures)} if signatures else {}),
        }


async def compose(job: Job, link: Callable[[str, Asset], Awaitable[str]]) -> bytes:
    """What is said of ``job``, which is over; ``link`` makes an address of the client's base and a stored image.

    ``{"type": "job.succeeded", "timestamp": ISO 8601, "data": {...}}``: links, never pictures, so that it stays below 20 kB.
    """
    base = job.order.notify.base if job.order.notify is not None else ""
    finished = datetime.fromtimestamp(job.finished or job.created, tz=UTC)
    data = {
        "id": job.id,
        "state": job.state.value,
        "model": job.order.request.model,
        "created": job.created,
        "finished": job.finished,
        "images": [
            {"url": await link(base, asset), "seed": asset.seed, "width": asset.width, "height": asset.height}
            for asset in job.assets
        ],
        "error": None if job.error is None else {"code": job.error.code, "message": job.error.message},
    }
    return json.dumps({"type": f"job.{job.state.value}", "timestamp": finished.isoformat(), "data": data}).encode()


def compose_batch(batch: Batch, standing: Standing) -> bytes:
    """What is said of ``batch``, which is over: ``{"type": "batch.finished", ...}``, and where its results are."""
    base = batch.notify.base if batch.notify is not None else ""
    finished = datetime.fromtimestamp(batch.finished or batch.created, tz=UTC)
    data = {
        "id": batch.id,
        "state": batch.state.value,
        "created": batch.created,
        "finished": batch.finished,
        "lines": batch.lines,
        "images": batch.images,
        "counts": {state.value: standing.count(state) for state in LineState if state not in OPEN},
        "results": f"{base}/api/batches/{batch.id}/results",
    }
    return json.dumps({"type": f"batch.{batch.state.value}", "timestamp": finished.isoformat(), "data": data}).encode()


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MOST_OUTCOME]


def _retry_after(response: httpcore.Response, now: float) -> float:
    """Seconds that the receiver asks for, in either form of the header, within a day."""
    headers = {name.lower(): value for name, value in response.headers}
    value = headers.get(b"retry-after", b"").decode("latin-1").strip()
    if value.isdigit():
        return min(float(value), SCHEDULE[-1])
    try:
        return min(max(parsedate_to_datetime(value).timestamp() - now, 0.0), SCHEDULE[-1])
    except (TypeError, ValueError):
        return 0.0
