"""A job: one request from its admission to its end."""

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import ErrorReport
from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest, Priority
from server.domain.asset import Asset, Delivery
from server.domain.caching import CacheResult, CacheUse
from server.domain.generation import LOCAL, Route, Usage
from server.domain.origin import Origin
from server.domain.verdict import Verdict
from server.domain.webhook import Notify
from server.domain.wishes import Wishes

DOT = Picture(1, 1, "L", b"\0")


class JobState(StrEnum):
    """Where a job stands; all but the first two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class LineOf(msgspec.Struct, frozen=True):
    """Which line of which batch."""

    batch: str
    number: int


class Order(msgspec.Struct, frozen=True):
    """What a dialect hands in: the request and how its result is wanted."""

    request: ImageRequest
    delivery: Delivery = Delivery()
    tenant: str = "local"
    priority: Priority = Priority.NORMAL
    cards: tuple[ModelCard, ...] = ()
    """The cards of the request's models at the time of the order: an edit of models.yaml does not change what was ordered."""
    notify: Notify | None = None
    road: str = LOCAL
    """Who is to make it: our own workers, an upstream by its name in models.yaml, or `AUTO`."""
    origins: tuple[Origin, ...] = ()
    """Files of input pictures that somebody has signed; kept only where results are signed."""
    cache: CacheUse = CacheUse.OFF
    """Whether earlier pictures will do."""
    seeded: bool = False
    """Whether the caller chose the seeds; else they were drawn."""
    wishes: Wishes = Wishes()
    line: LineOf | None = None
    """What it is a part of; None if it was asked for by itself."""

    @property
    def images(self) -> int:
        """How many images it makes."""
        return len(self.request.seeds)

    @property
    def work(self) -> int:
        """Pixel-steps: width x height x steps, over all images."""
        return self.request.width * self.request.height * self.request.sampling.steps * self.images

    def without_input(self) -> "Order":
        """The same order with a dot in the place of each input picture."""
        request, init = self.request, self.request.init
        if init is not None:
            init = replace(init, picture=DOT, mask=None if init.mask is None else DOT)
        bare = replace(
            request,
            init=init,
            controls=tuple(replace(use, picture=DOT) for use in request.controls),
            references=tuple(replace(use, pictures=(DOT,) * len(use.pictures)) for use in request.references),
        )
        return replace(self, request=bare, origins=())


class Job(msgspec.Struct, frozen=True):
    """One order and what became of it; a new value for each change, made by `server.domain.transitions.advance`."""

    id: str
    order: Order
    state: JobState
    created: float
    """Unix time."""
    durable: bool = False
    """Accepted for good: it outlives the server. False: somebody waits for the answer, and it ends with the server."""
    started: float | None = None
    """When it began for the first time."""
    finished: float | None = None
    attempts: int = 0
    """How often a server has begun it."""
    owner: str | None = None
    """RUNNING: the server process that works on it."""
    lease: float | None = None
    """RUNNING: Unix time at which anybody may take it over, unless its owner says that it lives."""
    cancel_asked: bool = False
    assets: tuple[Asset, ...] = ()
    stats: RunStats | None = None
    """Where its time went, once it has succeeded."""
    route: Route = Route()
    """Which road it took, once it has succeeded."""
    usage: Usage = Usage()
    """What it cost, once it has succeeded."""
    cache: CacheResult = CacheResult.OFF
    """How it came to its pictures, once it has succeeded."""
    error: ErrorReport | None = None
    verdicts: tuple[Verdict, ...] = ()
    """What moderation said beyond letting it pass, once it is over."""

    @property
    def images(self) -> int:
        """How many images it makes."""
        return self.order.images

    @property
    def work(self) -> int:
        """Pixel-steps: width x height x steps, over all images."""
        return self.order.work

    def without_input(self) -> "Job":
        """The same job with a dot in the place of each input picture: what is worth remembering once it is over."""
        return replace(self, order=self.order.without_input())
