"""What one device has to preprocess: the line in front of its worker."""

from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import RequestKillsWorker, TooLarge
from server.fleet.errand import Errand
from server.fleet.link import FrameTooLarge
from server.fleet.worker import Worker

AHEAD = 2
"""So many are with the worker at a time: one at work, one that it can begin at once."""


class Errands:
    """The errands that wait for one worker. Owned by its supervisor; those sent are the worker's."""

    __slots__ = ("_log", "_waiting")

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._waiting: list[Errand] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, errand: Errand) -> None:
        """Put it at the end of the line."""
        self._waiting.append(errand)

    def withdraw(self, errand: Errand, worker: Worker | None) -> None:
        """Nobody wants it any more."""
        if errand in self._waiting:
            self._waiting.remove(errand)
        elif worker is not None:
            worker.cancel_errand(errand)

    def dispatch(self, worker: Worker) -> None:
        """Send what the worker can take.

        A suspect goes alone, and beside no request that is one: if the worker dies again, it is known who did it.
        """
        self._waiting = [errand for errand in self._waiting if not errand.over]
        while self._waiting and len(worker.errands) < AHEAD and self._may_go(self._waiting[0], worker):
            errand = self._waiting.pop(0)
            try:
                worker.preprocess(errand)
            except FrameTooLarge as error:
                errand.fail(TooLarge(f"The picture is too large to pass on: {error}.", param="image"))

    def bury(self, worker: Worker, *, clean: bool) -> list[Errand]:
        """Account for an ended worker; what is to go elsewhere, or to its successor. Nothing is blamed for a ``clean`` leave."""
        homeless = [errand for errand in worker.refused_errands if not errand.over]
        for errand in worker.errands.values():
            if errand.over:
                continue
            if not clean and not errand.blame():
                errand.fail(RequestKillsWorker("A worker died while it preprocessed the picture, twice; it is not tried again."))
                self._log.error("preprocessing kills workers", preprocessor=errand.order.preprocessor)
                continue
            homeless.append(errand)
        return homeless

    def abandon(self, worker: Worker | None) -> list[Errand]:
        """Everything that waits or is at work; it is the caller's now, and the worker drops it."""
        found, self._waiting = self._waiting, []
        if worker is not None:
            found.extend(worker.errands.values())
            for errand in worker.errands.values():
                worker.cancel_errand(errand)
        return found

    def give_up(self) -> list[Errand]:
        """What waits; it is the caller's now."""
        found, self._waiting = self._waiting, []
        return found

    @staticmethod
    def _may_go(errand: Errand, worker: Worker) -> bool:
        if any(other.suspect for other in worker.errands.values()):
            return False
        return not errand.suspect or not (worker.errands or any(flight.suspect for flight in worker.flights.values()))
