"""One image being made, as the scheduler sees it: no tensors."""

from dataclasses import dataclass
from math import inf

import msgspec

from pipelines.contract.messages import Phase
from pipelines.contract.request import ImageRequest
from pipelines.contract.samplers import kept_steps

RowId = tuple[str, int]
"""The request's id and the image's index in it."""


class Key(msgspec.Struct, frozen=True):
    """What rows must have in common to share a tick; nothing else has to be equal."""

    model: str
    width: int
    height: int


class Demand(msgspec.Struct, frozen=True):
    """What there is to do for one model."""

    work: int
    """Pixel-steps (width x height x evaluations) that are left, of rows begun or not."""
    begun: int
    """Rows that have begun: they hold the model on the device."""


@dataclass(slots=True, eq=False)
class Row:
    """Mutable; owned by the scheduler, read by the runner during a batch."""

    id: RowId
    request: ImageRequest
    key: Key
    order: int
    """Arrival, counted over all rows."""
    phase: Phase = Phase.ENCODE
    position: int = 0
    """Evaluations of the network done (a guided pair counts once)."""
    total: int = 0
    """Evaluations to do; known once encoded."""
    overtaken: int = 0
    """Batches since this row last ran in which a row ran that came later."""
    suspect: bool = False
    """It was in a batch that failed for a reason unknown: it runs alone until one succeeds."""

    @property
    def cost(self) -> int:
        """Network evaluations in one tick."""
        return 2 if self.request.sampling.guided else 1

    @property
    def seed(self) -> int:
        """The seed of this image."""
        return self.request.seeds[self.id[1]]

    @property
    def work(self) -> int:
        """What is left, in evaluations times pixels."""
        return self.cost * max(self.total - self.position, 1) * self.key.width * self.key.height

    @property
    def urgency(self) -> tuple[int, float, int]:
        """Sorts the more urgent first: priority, then deadline, then age."""
        deadline = inf if self.request.deadline is None else self.request.deadline
        return (int(self.request.priority), deadline, self.order)

    @property
    def step(self) -> int:
        """Steps done, of `ImageRequest.sampling.steps` less those that strength leaves out."""
        return self.position * self.steps // self.total if self.total else 0

    @property
    def steps(self) -> int:
        """Steps to do in all."""
        init, steps = self.request.init, self.request.sampling.steps
        return max(1, steps if init is None else kept_steps(steps, init.strength))


def rows_of(request: ImageRequest, first_order: int) -> list[Row]:
    """One row for each image of ``request``."""
    key = Key(request.model, request.width, request.height)
    return [
        Row(id=(request.id, index), request=request, key=key, order=first_order + index) for index in range(len(request.seeds))
    ]
