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


class Course(msgspec.Struct, frozen=True):
    """What encoding finds out of a row's way."""

    steps: int
    """Steps to do."""
    extra: tuple[int, int] = (0, 0)
    """Positions, from the first up to but not including the second, that take one more evaluation: skip-layer guidance."""


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
    """Evaluations to do, by all models together; known once encoded."""
    course: Course | None = None
    """Known once encoded, if the runner tells."""
    step: int = 0
    """Steps done, of `steps`; never falls, even if the refiner's share turns out longer than thought."""
    switch: int | None = None
    """Position at which the refiner takes over; None when no model is to come."""
    refining: bool = False
    """The refiner has taken over: what the row holds outlives its encoding."""
    overtaken: int = 0
    """Batches since this row last ran in which a row ran that came later."""
    suspect: bool = False
    """It was in a batch that failed for a reason unknown: it runs alone until one succeeds."""

    @property
    def cost(self) -> int:
        """Network evaluations in the next tick."""
        first, last = self._extra
        return self._usual + (first <= self.position < last)

    @property
    def seed(self) -> int:
        """The seed of this image."""
        return self.request.seeds[self.id[1]]

    @property
    def work(self) -> int:
        """What is left, in evaluations times pixels."""
        first, last = self._extra
        extra = max(0, last - max(first, self.position))
        evaluations = self._usual * max(self.total - self.position, 1) + extra
        return evaluations * self.key.width * self.key.height

    @property
    def urgency(self) -> tuple[int, float, int]:
        """Sorts the more urgent first: priority, then deadline, then age."""
        deadline = inf if self.request.deadline is None else self.request.deadline
        return (int(self.request.priority), deadline, self.order)

    @property
    def steps(self) -> int:
        """Steps to do in all: `ImageRequest.sampling.steps` less those that strength leaves out."""
        if self.course is not None:
            return self.course.steps
        init, steps = self.request.init, self.request.sampling.steps
        return max(1, steps if init is None else kept_steps(steps, init.strength))

    @property
    def _usual(self) -> int:
        return 2 if self.request.sampling.guided else 1

    @property
    def _extra(self) -> tuple[int, int]:
        return (0, 0) if self.course is None else self.course.extra

    @property
    def next_step(self) -> int:
        """What `step` will be after one more evaluation."""
        return max(self.step, (self.position + 1) * self.steps // self.total)

    def encoded(self, total: int, switch: int | None) -> None:
        """Ready for the model's first tick: ``total`` evaluations in all, the refiner from ``switch`` on."""
        self.total, self.switch = total, switch
        self._go_on()

    def denoised(self, position: int) -> None:
        """``position`` evaluations are done."""
        self.position = position
        self.step = max(self.step, position * self.steps // self.total)
        self._go_on()

    def _go_on(self) -> None:
        """Whatever comes next: more of the same, the refiner's own encoding, or the end."""
        refiner = self.request.refiner
        if refiner is not None and self.switch is not None and self.position >= self.switch:
            self.key = Key(refiner.model, self.key.width, self.key.height)
            self.switch, self.refining, self.phase = None, True, Phase.ENCODE
        else:
            self.phase = Phase.DENOISE if self.position < self.total else Phase.DECODE


def rows_of(request: ImageRequest, first_order: int) -> list[Row]:
    """One row for each image of ``request``."""
    key = Key(request.model, request.width, request.height)
    return [
        Row(id=(request.id, index), request=request, key=key, order=first_order + index) for index in range(len(request.seeds))
    ]
