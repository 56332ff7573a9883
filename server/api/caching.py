"""The cache, as callers ask for it and hear of it."""

from collections.abc import Mapping

from server.domain.caching import CacheResult, CacheUse
from server.domain.job import Job

HEADER = "x-aquatint-cache"


def chosen(asked: CacheUse | None, *, seeded: bool) -> CacheUse:
    """What a request accepts that asks for ``asked``: without a word the very same picture, if it chose the seed."""
    use = CacheUse.EXACT if asked is None else asked
    return CacheUse.OFF if use is CacheUse.EXACT and not seeded else use


def told(job: Job) -> Mapping[str, str]:
    """The header that says how ``job`` came to its pictures; none as long as nobody knows."""
    known = job.state.final or job.order.cache is CacheUse.OFF
    return {HEADER: (job.cache if job.state.final else CacheResult.OFF).value} if known else {}
