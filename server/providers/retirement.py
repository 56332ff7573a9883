"""Reads, once a day, which models the upstreams still have and until when."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import AquatintError
from server.providers.road import Road

DAY_SECONDS = 24 * 3600.0
AGAIN_SECONDS = 900.0
"""After a list that could not be read."""
READ_SECONDS = 60.0


class Retirement:
    """Keeps every road's `Succession` up to date."""

    __slots__ = ("_log", "_news", "_roads", "_seconds")

    def __init__(self, roads: Callable[[], Iterable[Road]], log: FilteringBoundLogger, *, seconds: float = DAY_SECONDS) -> None:
        self._roads, self._log, self._seconds = roads, log, seconds
        self._news = asyncio.Event()

    def look(self) -> None:
        """There are new roads."""
        self._news.set()

    async def watch(self) -> None:
        """Read the lists at once, then once a day and whenever there are new roads, until cancelled."""
        while True:
            self._news.clear()
            failed = [road for road in list(self._roads()) if not await self._read(road)]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(AGAIN_SECONDS, self._seconds) if failed else self._seconds)

    async def _read(self, road: Road) -> bool:
        try:
            async with asyncio.timeout(READ_SECONDS):
                road.succession.read(await road.source.listed())
        except (AquatintError, TimeoutError) as error:
            self._log.warning("an upstream's list of models cannot be read", road=road.upstream.name, error=repr(error))
            return False
        except Exception:  # noqa: BLE001 - a list of whatever form must not end the watching
            self._log.exception("an upstream's list of models cannot be understood", road=road.upstream.name)
            return False
        return True
