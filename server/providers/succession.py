"""Which model of an upstream is asked for, as models come to their end there."""

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec
from structlog.typing import FilteringBoundLogger

from server.catalog.upstreams import Upstream
from server.domain.clock import Clock
from server.domain.failures import UpstreamModelGone

WARN_DAYS = 30

T = TypeVar("T")


class Listed(msgspec.Struct, frozen=True):
    """One entry of an upstream's list of models."""

    id: str
    shutdown: dt.date | None = None


class Ending(msgspec.Struct, frozen=True):
    """A model that we use, or would fall back to, and that will be gone soon, or is."""

    model: str
    shutdown: str | None
    """The day, as ISO 8601; null if the upstream does not say."""
    days_left: int
    """0 or less: gone."""


class Succession:
    """Owns the knowledge of which models are gone; `model` is the first one that is not."""

    __slots__ = ("_clock", "_ends", "_gone", "_log", "_told", "_upstream", "checked")

    def __init__(
        self,
        upstream: Upstream,
        clock: Clock,
        log: FilteringBoundLogger,
        told: Callable[[str, int], None] = lambda _model, _days: None,
    ) -> None:
        """``told`` hears how many days a model has left, whenever one of ours is about to end."""
        self._upstream, self._clock, self._log, self._told = upstream, clock, log, told
        self._gone: set[str] = set()
        self._ends: dict[str, dt.date] = {}
        self.checked: float | None = None
        """Unix time at which the upstream's list was last read."""

    @property
    def line(self) -> tuple[str, ...]:
        """The configured model and its successors."""
        return tuple(dict.fromkeys((self._upstream.model, *(self._upstream.successors or ()))))

    @property
    def model(self) -> str:
        """What to ask for; the last of the line if all seem to be gone."""
        return next((model for model in self.line if not self._over(model)), self.line[-1])

    def meant(self, model_id: str) -> str:
        """What a request for ``model_id`` is to be asked of: the model that it names, or the one in use."""
        return self._upstream.means(model_id) or self.model

    def gone(self, model: str) -> str | None:
        """``model`` was refused as unknown: what to ask for instead, None if there is nothing."""
        if model not in self._gone:
            self._gone.add(model)
            self._told(model, 0)
            self._log.warning("upstream has no such model any more", road=self._upstream.name, model=model, instead=self.model)
        after = self.model
        return None if after == model or self._over(after) else after

    async def asked(self, named: str | None, ask: Callable[[str], Awaitable[T]]) -> T:
        """What ``ask`` gets from the model in use, or from the next one for as long as they turn out to be gone.

        A model that the caller ``named`` is what it gets, or nothing: raises `UpstreamModelGone`.
        """
        model = named or self.model
        while True:
            try:
                return await ask(model)
            except UpstreamModelGone:
                after = None if named else self.gone(model)
                if after is None:
                    raise
                model = after

    def read(self, listed: Iterable[Listed]) -> None:
        """Take in the upstream's list of models."""
        known = {each.id: each for each in listed}
        self.checked = self._clock.time()
        if not known:
            return
        # A server that lists none of our names has names of its own for them (Azure's deployments).
        if any(model in known for model in self.line):
            self._gone = {model for model in self.line if model not in known}
        self._ends = {model: end for model in self.line if model in known and (end := known[model].shutdown) is not None}
        for each in self.endings:
            self._told(each.model, each.days_left)
            self._log.warning(
                "upstream model comes to its end",
                road=self._upstream.name,
                model=each.model,
                shutdown=each.shutdown,
                days_left=each.days_left,
                in_use=self.model,
            )

    @property
    def endings(self) -> tuple[Ending, ...]:
        """The models of our line that are gone, or will be within `WARN_DAYS`."""
        found = [Ending(model, end.isoformat(), self._days(end)) for model, end in self._ends.items()]
        found = [each for each in found if each.days_left <= WARN_DAYS]
        return (*(Ending(model, None, 0) for model in self.line if model in self._gone), *found)

    def _over(self, model: str) -> bool:
        return model in self._gone or (model in self._ends and self._days(self._ends[model]) <= 0)

    def _days(self, end: dt.date) -> int:
        today = dt.datetime.fromtimestamp(self._clock.time(), tz=dt.UTC).date()
        return (end - today).days


def day(text: object) -> dt.date | None:
    """The day in a ``shutdown_date``: ISO 8601 with or without a time, or Unix seconds; None for anything else."""
    try:
        if isinstance(text, int | float):
            return dt.datetime.fromtimestamp(text, tz=dt.UTC).date()
        return dt.date.fromisoformat(str(text)[:10])
    except (ValueError, OverflowError, OSError):
        return None
