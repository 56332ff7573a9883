"""A job: one request from its admission to its end."""

from enum import StrEnum

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.errors import ErrorReport
from pipelines.contract.messages import RunStats
from pipelines.contract.request import ImageRequest, Priority
from server.domain.asset import Asset, Delivery


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Order(msgspec.Struct, frozen=True):
    """What a dialect hands in: the request and how its result is wanted."""

    request: ImageRequest
    delivery: Delivery = Delivery()
    tenant: str = "local"
    priority: Priority = Priority.NORMAL
    cards: tuple[ModelCard, ...] = ()
    """The cards of the request's models at the time of the order: an edit of models.yaml does not change what was ordered."""


class Job(msgspec.Struct, frozen=True):
    """One order and what became of it; a new value for each change."""

    id: str
    order: Order
    state: JobState
    created: float
    """Unix time."""
    started: float | None = None
    finished: float | None = None
    assets: tuple[Asset, ...] = ()
    stats: RunStats | None = None
    """Where its time went; None until it has succeeded."""
    error: ErrorReport | None = None

    @property
    def images(self) -> int:
        """How many images it makes."""
        return len(self.order.request.seeds)

    def without_input(self) -> "Job":
        """The same job without its input pictures: what is worth remembering once it is over."""
        request = self.order.request
        if request.init is None and not request.controls and not request.references:
            return self
        request = msgspec.structs.replace(request, init=None, controls=(), references=())
        return msgspec.structs.replace(self, order=msgspec.structs.replace(self.order, request=request))
