"""A picture on its way to be preprocessed."""

import asyncio

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import Preprocess
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import Options, PreprocessorSpec
from server.fleet.flight import MAX_DEATHS


class Errand:
    """One piece of preprocessing, and how many workers died on it. Owned by the fleet."""

    __slots__ = ("_deaths", "order", "result")

    def __init__(
        self, id_: str, spec: PreprocessorSpec, card: PreprocessorCard | None, picture: Picture, options: Options
    ) -> None:
        """``card`` is that of models.yaml as it is now: the errand keeps it to its end."""
        self.order = Preprocess(id_, spec.id, card, picture, options)
        """The work as a worker gets it."""
        self._deaths = 0
        self.result: asyncio.Future[Picture] = asyncio.get_running_loop().create_future()

    @property
    def id(self) -> str:
        """Its id, on every worker."""
        return self.order.id

    @property
    def over(self) -> bool:
        """Whether somebody already knows how it ended (or nobody wants to know)."""
        return self.result.done()

    @property
    def suspect(self) -> bool:
        """Whether a worker died on it."""
        return self._deaths > 0

    def blame(self) -> bool:
        """Count a death it was at work at; False if it is not to be tried again."""
        self._deaths += 1
        return self._deaths < MAX_DEATHS

    def complete(self, picture: Picture) -> None:
        """Deliver the control image."""
        if not self.over:
            self.result.set_result(picture)

    def fail(self, error: AquatintError) -> None:
        """End it with ``error``, unless it is over."""
        if not self.over:
            self.result.set_exception(error)
            self.result.exception()  # read it: a waiter that left meanwhile is no reason for a warning
