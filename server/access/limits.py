"""How much each tenant may ask for: requests in a minute, images in a day, images at the same time."""

import math
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from server.catalog.allowances import Limits
from server.domain.clock import Clock
from server.domain.failures import QuotaSpent, RateLimited
from server.domain.spending import SECONDS_PER_DAY, Quotas
from server.telemetry.metrics import Metrics

_MOST_TENANTS = 10_000
_MINUTE = 60.0


class Rate(msgspec.Struct, frozen=True):
    """How a tenant stands with its requests."""

    limit: int
    """In a minute."""
    remaining: int
    reset: float
    """Seconds until all of them may be made again."""


class Bucket:
    """Tokens that come back evenly; each request takes one. A pure account: it is told the time."""

    __slots__ = ("_at", "_tokens", "limit")

    def __init__(self, limit: int, now: float) -> None:
        """``limit`` tokens, and as many more in each minute."""
        self.limit = limit
        self._tokens, self._at = float(limit), now

    def take(self, now: float) -> float:
        """Take a token, and return 0; or the seconds until there is one."""
        self._fill(now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) * _MINUTE / self.limit

    def rate(self, now: float) -> Rate:
        """How it stands."""
        self._fill(now)
        return Rate(self.limit, math.floor(self._tokens), (self.limit - self._tokens) * _MINUTE / self.limit)

    def _fill(self, now: float) -> None:
        self._tokens = min(float(self.limit), self._tokens + max(0.0, now - self._at) * self.limit / _MINUTE)
        self._at = now


class Allowances:
    """Owns the buckets of this server's tenants; the images of a day are counted by ``quotas``, for all servers."""

    __slots__ = ("_buckets", "_clock", "_limits", "_metrics", "_quotas")

    def __init__(self, limits: Callable[[str], Limits], quotas: Quotas, clock: Clock, metrics: Metrics) -> None:
        """``limits`` says what holds for a tenant at the moment."""
        self._limits, self._quotas, self._clock, self._metrics = limits, quotas, clock, metrics
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def request(self, tenant: str) -> None:
        """Let one more request in, or raise `RateLimited`."""
        bucket = self._bucket(tenant)
        wait = 0.0 if bucket is None else bucket.take(self._clock.monotonic())
        if bucket is not None and wait > 0:
            msg = f"You may make {bucket.limit} requests in a minute; try again in {wait:.1f} s."
            raise self._refused(RateLimited(msg, retry_after=wait))

    def company(self, tenant: str, images: int, at_work: int, wait: float) -> None:
        """Let ``images`` be made beside the ``at_work`` of the same tenant, or raise `RateLimited`; ``wait`` is a guess.

        A tenant that has nothing at work may exceed its limit by a single request.
        """
        most = self._limits(tenant).concurrent_images
        if most is not None and at_work and at_work + images > most:
            msg = f"You may have {most} images made at the same time, and {at_work} are."
            raise self._refused(RateLimited(msg, retry_after=wait))

    async def day(self, tenant: str, images: int) -> None:
        """Grant ``images`` of today's, or raise `QuotaSpent`."""
        most, now = self._limits(tenant).images_per_day, self._clock.time()
        if most is not None and not await self._quotas.take(tenant, images, most, now):
            msg = f"You may have {most} images made in a day (UTC); what is left of them does not cover this request."
            raise self._refused(QuotaSpent(msg, retry_after=SECONDS_PER_DAY - now % SECONDS_PER_DAY))

    async def left(self, tenant: str) -> tuple[int, int] | None:
        """The images of a day, and how many of today's are left; None if there is no limit."""
        most = self._limits(tenant).images_per_day
        return None if most is None else (most, max(0, most - await self._quotas.taken(tenant, self._clock.time())))

    def rate(self, tenant: str) -> Rate | None:
        """How ``tenant`` stands with its requests; None if it has no limit."""
        bucket = self._bucket(tenant)
        return None if bucket is None else bucket.rate(self._clock.monotonic())

    def _bucket(self, tenant: str) -> Bucket | None:
        limit = self._limits(tenant).requests_per_minute
        if limit is None:
            self._buckets.pop(tenant, None)
            return None
        bucket = self._buckets.get(tenant)
        if bucket is None or bucket.limit != limit:
            bucket = self._buckets[tenant] = Bucket(limit, self._clock.monotonic())
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > _MOST_TENANTS:
            self._buckets.popitem(last=False)
        return bucket

    def _refused(self, error: RateLimited) -> RateLimited:
        self._metrics.refused(error.code)
        return error
