"""Who asks, how urgently, and who listens: what travels beside a request."""

from collections.abc import Callable

import msgspec

from pipelines.contract.catalog import ModelCard
from pipelines.contract.messages import Preview, Progress
from pipelines.contract.request import Priority
from server.domain.asset import Delivery
from server.domain.caching import CacheUse
from server.domain.generation import LOCAL
from server.domain.origin import Origin
from server.domain.wishes import Wishes

Emit = Callable[[Progress | Preview], None]
"""The one sink for progress; must not block and must not raise."""


def ignore(_event: Progress | Preview) -> None:
    """The sink of a call that nobody listens to."""


def unheard() -> None:
    """Of a call whose cost nobody counts."""


class Call(msgspec.Struct, frozen=True):
    """One call of one tenant."""

    id: str
    tenant: str = "local"
    priority: Priority = Priority.NORMAL
    deadline: float | None = None
    """Unix time after which the result is worthless."""
    emit: Emit = ignore
    road: str = LOCAL
    """As in `server.domain.job.Order`."""
    cards: tuple[ModelCard, ...] = ()
    """The cards of the request's models as they were when it was accepted; empty: those of the moment."""
    origins: tuple[Origin, ...] = ()
    cache: CacheUse = CacheUse.OFF
    """As in `server.domain.job.Order`."""
    seeded: bool = False
    """As in `server.domain.job.Order`."""
    wishes: Wishes = Wishes()
    delivery: Delivery = Delivery()
    """How the result is wanted: an upstream can be asked for that very encoding."""
    durable: bool = False
    """As in `server.domain.job.Job`: it may be begun again, after a server's death, by another server."""
    attempt: int = 1
    """How often the job has been begun, this time included."""
    sending: Callable[[], None] = unheard
    """Hears that an upstream is about to be asked: from then on money may be spent."""
    spared: Callable[[], None] = unheard
    """Hears that of all that was sent nothing was done, nor charged."""
