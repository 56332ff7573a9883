"""One image being made, as the scheduler sees it: no tensors."""

from dataclasses import dataclass, field
from math import inf

import msgspec

from pipelines.contract.adapters import AdapterCard, UpscalerCard
from pipelines.contract.enlarging import Enlarger, Hires, Upscale
from pipelines.contract.messages import Phase
from pipelines.contract.request import ImageRequest
from pipelines.contract.samplers import kept_steps
from pipelines.engine import passes

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
    """Steps to do in this pass."""
    extra: tuple[int, int] = (0, 0)
    """Positions, from the first up to but not including the second, that take one more evaluation: skip-layer guidance."""
    ahead: int = 0
    """Steps of the passes after this one."""


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
    """What the present pass asks."""
    key: Key
    order: int
    """Arrival, counted over all rows."""
    phase: Phase = Phase.ENCODE
    position: int = 0
    """Evaluations of the network done in this pass (a guided pair counts once)."""
    total: int = 0
    """Evaluations to do in this pass, by all models together; known once encoded."""
    course: Course | None = None
    """Known once encoded, if the runner tells."""
    step: int = 0
    """Steps done, of `steps`, in all passes; never falls, even if the refiner's share turns out longer than thought."""
    origin: ImageRequest = field(init=False, repr=False)
    """What the first pass asked: the request itself."""
    strength: float | None = None
    """The share of this pass's steps that is run; None for all."""
    passed: int = 0
    """Steps of the passes before this one."""
    promised: int | None = None
    """Steps of all passes together, once the runner has told."""
    again: bool = False
    """This is a second pass, over what the row itself holds. Its model has never been let go of since the first."""
    tile: int | None = None
    """It redraws that tile of another row's picture."""
    whole: "Row | None" = None
    """TILE: the row whose picture it is."""
    tiles: tuple["Row", ...] = field(default=(), repr=False)
    """The rows that redraw its enlarged picture; they may be done."""
    awaited: int = 0
    """How many of `tiles` are not."""
    switch: int | None = None
    """Position at which the refiner takes over; None when no model is to come."""
    refining: bool = False
    """The refiner has taken over: what the row holds outlives its encoding."""
    overtaken: int = 0
    """Batches since this row last ran in which a row ran that came later."""
    suspect: bool = False
    """It was in a batch that failed for a reason unknown: it runs alone until one succeeds."""

    def __post_init__(self) -> None:
        """It begins with its first pass."""
        self.origin = self.request

    @property
    def to_come(self) -> "tuple[passes.Pass, ...]":
        """The passes after the present one."""
        return passes.later(self.request, self.origin)

    @property
    def cost(self) -> int:
        """Network evaluations in the next tick."""
        first, last = self._extra
        return self._usual + (first <= self.position < last)

    @property
    def image(self) -> int:
        """Which image of the request it is, or is a part of."""
        return self.image_row.id[1]

    @property
    def image_row(self) -> "Row":
        """The row of the image that this one is, or is a part of."""
        return self if self.whole is None else self.whole

    @property
    def seed(self) -> int:
        """The seed of this image; tiles count on from their picture's, or their noise would repeat like a wallpaper."""
        return (self.request.seeds[self.image] + (self.tile or 0)) % 2**64

    @property
    def left(self) -> int:
        """What is left of this pass, begun or not, and of those after it, in evaluations times pixels."""
        now = max(self.total - self.position, 1) if self.total else self.own_steps
        coming = sum(each.steps * each.pixels for each in self.to_come)
        return now * self.cost * self.key.width * self.key.height + coming * self._usual

    @property
    def urgency(self) -> tuple[int, float, int]:
        """Sorts the more urgent first: priority, then deadline, then age."""
        deadline = inf if self.request.deadline is None else self.request.deadline
        return (int(self.request.priority), deadline, self.order)

    @property
    def own_steps(self) -> int:
        """Steps to do in this pass: `ImageRequest.sampling.steps` less those that strength leaves out."""
        if self.course is not None:
            return self.course.steps
        if self.idle:
            return 0
        steps = self.request.sampling.steps
        return max(1, steps if self.strength is None else kept_steps(steps, self.strength))

    @property
    def steps(self) -> int:
        """Steps to do in all passes together, those done included."""
        if self.promised is not None:
            return self.promised
        return self.passed + self.own_steps + sum(each.steps for each in self.to_come)

    @property
    def later(self) -> bool:
        """Whether this is a pass after the first."""
        return self.again or self.whole is not None

    @property
    def idle(self) -> bool:
        """Whether this pass draws nothing."""
        return passes.idle(self.request)

    @property
    def modelless(self) -> bool:
        """Whether no model is needed from now on."""
        return (self.idle or self.phase is Phase.ENLARGE) and (bool(self.tiles) or not self.to_come)

    @property
    def begun(self) -> bool:
        """Whether something has been done: it holds tensors and adapters, and its model unless that is to change."""
        return self.phase is not Phase.ENCODE or self.again or self.refining

    @property
    def bound(self) -> bool:
        """Whether it holds its model on the device: it need not wait for it, and the model waits for its end."""
        if self.modelless:
            return False
        own = self.phase is not Phase.ENCODE or (self.again and not self.refining)
        return own or (self.whole is not None and not self.whole.refining and not self.refining)

    @property
    def adapters(self) -> tuple[AdapterCard, ...]:
        """What must be on the device before it begins: all that its request names, but what only a model could use."""
        cards = self.request.adapters
        return tuple(card for card in cards if isinstance(card, UpscalerCard)) if self.modelless else cards

    @property
    def enlarging(self) -> Hires | Upscale | None:
        """What its picture is to be enlarged for next."""
        return self.request.hires or self.request.upscale

    @property
    def shown(self) -> bool:
        """Whether the picture at the end of the present phase is the finished image."""
        if self.whole is not None or self.request.hires is not None:
            return False
        upscale = self.request.upscale
        if self.phase is Phase.DECODE:
            return upscale is None
        return self.phase is Phase.ENLARGE and upscale is not None and (upscale.tiles is None or bool(self.tiles))

    @property
    def _usual(self) -> int:
        return 2 if self.request.sampling.guided else 1

    @property
    def _extra(self) -> tuple[int, int]:
        return (0, 0) if self.course is None else self.course.extra

    @property
    def next_step(self) -> int:
        """What `step` will be after one more evaluation."""
        return max(self.step, self.passed + (self.position + 1) * self.own_steps // self.total)

    def went(self, advanced: int, switch: int | None) -> "tuple[Row, ...]":
        """The present phase's batch went well, as `Outcome` tells; returns the rows that come of it."""
        match self.phase:
            case Phase.ENCODE:
                self.encoded(advanced, switch)
            case Phase.DENOISE:
                self.denoised(advanced)
            case Phase.DECODE:
                self.decoded()
            case Phase.ENLARGE:
                return self.enlarged(advanced)
        return ()

    def encoded(self, total: int, switch: int | None) -> None:
        """Ready for the model's first tick: ``total`` evaluations in this pass, the refiner from ``switch`` on."""
        if self.course is not None:
            self.promised = self.passed + self.course.steps + self.course.ahead
        self.total, self.switch = total, switch
        self._go_on()

    def denoised(self, position: int) -> None:
        """``position`` evaluations of this pass are done."""
        before = self.step
        self.position = position
        self.step = max(self.step, self.passed + position * self.own_steps // self.total)
        if self.whole is not None:
            self.whole.step += self.step - before
        self._go_on()

    def decoded(self) -> None:
        """Its picture is there."""
        if self.whole is not None:
            self.whole.awaited -= 1
        elif self.enlarging is not None:
            self.phase = Phase.ENLARGE

    def enlarged(self, left: int) -> "tuple[Row, ...]":
        """``left`` pieces of the enlarging are still to be done; with none left, the rows that are to redraw the tiles of it."""
        upscale = self.request.upscale
        if left:
            return ()
        if self.request.hires is not None:
            self._begin_again(self.request.hires)
        elif upscale is not None and upscale.tiles is not None and not self.tiles:
            self._split(passes.tiled(self.origin, upscale, upscale.tiles))
            return self.tiles
        return ()

    def _go_on(self) -> None:
        """Whatever comes next: more of the same, the refiner's own encoding, a second pass, or the picture."""
        refiner, hires = self.request.refiner, self.request.hires
        # With a second pass to come the image is not the refiner's to finish yet.
        if refiner is not None and hires is None and self.switch is not None and self.position >= self.switch:
            self.key = Key(refiner.model, self.key.width, self.key.height)
            self.switch, self.refining, self.phase = None, True, Phase.ENCODE
        elif self.position < self.total:
            self.phase = Phase.DENOISE
        elif self.idle:
            self.phase = Phase.ENLARGE
        elif hires is not None and hires.enlarger is Enlarger.LATENT:
            self._begin_again(hires)
        else:
            self.phase = Phase.DECODE

    def _begin_again(self, hires: Hires) -> None:
        following = passes.second(self.request, hires)
        self._pass_on()
        self.request, self.strength, self.again = following.request, following.strength, True
        self.key = Key(self.request.model, self.request.width, self.request.height)
        self.phase = Phase.ENCODE

    def _split(self, following: "passes.Pass") -> None:
        asked = following.request
        key, first = Key(asked.model, asked.width, asked.height), len(asked.seeds) + self.image * following.rows
        self._pass_on()
        self.course, self.awaited = Course(0), following.rows
        # Each is as old as if one came with every request: a picture of hundreds of tiles lets those pass that came meanwhile.
        self.tiles = tuple(
            Row((asked.id, first + tile), asked, key, self.order + tile, strength=following.strength, tile=tile, whole=self)
            for tile in range(following.rows)
        )

    def _pass_on(self) -> None:
        """Close the books of this pass."""
        self.passed = self.step = max(self.step, self.passed + self.own_steps)
        self.course, self.switch, self.position, self.total = None, None, 0, 0


def rows_of(request: ImageRequest, first_order: int) -> list[Row]:
    """One row for each image of ``request``."""
    key = Key(request.model, request.width, request.height)
    strength = None if request.init is None else request.init.strength
    return [
        Row(id=(request.id, index), request=request, key=key, order=first_order + index, strength=strength)
        for index in range(len(request.seeds))
    ]
