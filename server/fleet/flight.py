"""A request on its way through the fleet."""

import asyncio
from collections.abc import Iterable

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import Preview, Progress, RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation
from server.fleet.roster import by_name, name_of

MAX_DEATHS = 2
"""A request that was in flight at so many worker deaths is not tried again."""
MAX_ALL_DEATHS = 4
"""The same, counting also deaths of which it seemed innocent."""


class Flight:
    """One request, what has come back of it, and how many workers died on it. Owned by the fleet.

    A request that was in flight at a death is a suspect until it has got further than it was then: what kills a worker usually
    does so at the same place again.
    """

    __slots__ = (
        "_all_deaths",
        "_deaths",
        "_left",
        "_mark",
        "_pictures",
        "_total",
        "call",
        "cards",
        "order",
        "request",
        "result",
        "suspect",
    )

    def __init__(self, request: ImageRequest, call: Call, cards: Iterable[ModelCard]) -> None:
        """``cards`` are those of the request's models as they were when it was accepted: it keeps them to its end."""
        self.request = request
        self.call = call
        self.cards = {name_of(card): card for card in cards}
        """By the names that workers know."""
        self.order = by_name(request, {card.id: name for name, card in self.cards.items()})
        """The request as a worker gets it."""
        self.suspect = False
        self._deaths = 0
        self._all_deaths = 0
        self._mark = 0
        self.result: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._pictures: dict[int, Picture] = {}
        self._left: dict[int, int] = {}
        self.restart()

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def over(self) -> bool:
        """Whether somebody already knows how it ended (or nobody wants to know)."""
        return self.result.done()

    @property
    def cleared(self) -> bool:
        """Whether it was a suspect once and is none now."""
        return self._all_deaths > 0 and not self.suspect

    @property
    def pixel_steps(self) -> int:
        """The work of one step of one image."""
        request = self.request
        return request.width * request.height * (2 if request.sampling.guided else 1)

    @property
    def backlog(self) -> int:
        """Pixel-steps still to do."""
        return 0 if self.over else self.pixel_steps * sum(self._left.values())

    def restart(self) -> None:
        """Forget what has come back: the request runs again from its beginning."""
        self._pictures.clear()
        steps = self.request.sampling.steps
        if self.request.init is not None:
            steps = max(1, round(steps * self.request.init.strength))
        self._left = dict.fromkeys(range(len(self.request.seeds)), steps)
        self._total = sum(self._left.values())

    def blame(self) -> bool:
        """Count a death it was in flight at; False if it is not to be tried again."""
        self.suspect = True
        self._mark = self._total - sum(self._left.values())
        self._deaths += 1
        self._all_deaths += 1
        return self._deaths < MAX_DEATHS and self._all_deaths < MAX_ALL_DEATHS

    def progress(self, event: Progress) -> int:
        """Pass progress on; returns the pixel-steps done since the last report."""
        before = self._left.get(event.image, 0)
        now = min(before, max(0, event.steps - event.step))
        self._left[event.image] = now
        if self.suspect and self._total - sum(self._left.values()) > self._mark:
            self.suspect = False
            self._deaths = 0
        self._emit(event)
        return (before - now) * self.pixel_steps

    def preview(self, event: Preview) -> None:
        """Pass a preview on."""
        self._emit(event)

    def picture(self, image: int, picture: Picture) -> None:
        """Keep one finished image."""
        self._left[image] = 0
        self._pictures[image] = picture

    def complete(self, stats: RunStats, device: str = "") -> bool:
        """Deliver, as made on ``device``; False if an image is missing, which only a broken worker does."""
        count = len(self.request.seeds)
        if sorted(self._pictures) != list(range(count)):
            return False
        if not self.over:
            pictures = tuple(self._pictures[image] for image in range(count))
            self.result.set_result(Generation(self.request.model, pictures, self.request.seeds, stats, device=device))
        return True

    def fail(self, error: AquatintError) -> None:
        """End it with ``error``, unless it is over."""
        if not self.over:
            self.result.set_exception(error)
            self.result.exception()  # read it: a waiter that left meanwhile is no reason for a warning

    def _emit(self, event: Progress | Preview) -> None:
        if not self.over:
            self.call.emit(event)
