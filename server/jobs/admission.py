"""Who gets in: a bound on the images accepted and not finished.

Bulk work is not judged by it, nor does it keep anybody out: it fills what others leave, within bounds of its own.
"""

from pipelines.contract.errors import Overloaded, ShuttingDown
from server.telemetry.metrics import Metrics

_LEAST_RETRY, _MOST_RETRY = 1.0, 120.0
"""OpenAI's Python client does not retry at all when told to wait for more than 120 seconds."""


class Admission:
    """Counts images from their admission to their end."""

    __slots__ = ("_bulk", "_closed", "_images", "_limit", "_metrics")

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._images = self._bulk = 0
        self._closed = False

    @property
    def images(self) -> int:
        """Images accepted and not finished, bulk ones among them."""
        return self._images + self._bulk

    @property
    def closed(self) -> bool:
        """Whether nothing new is taken."""
        return self._closed

    def close(self) -> None:
        """Take nothing new from now on."""
        self._closed = True

    def check_open(self) -> None:
        """Raise `ShuttingDown` if nothing new is taken."""
        if self._closed:
            self._metrics.refused(ShuttingDown.code)
            msg = "The server is shutting down and takes no new work."
            raise ShuttingDown(msg, retry_after=5.0)

    def enter(self, images: int, wait_seconds: float) -> None:
        """Let ``images`` in, or raise; an idle server takes even more than its limit at once."""
        self.check_open()
        if self._images and self._images + images > self._limit:
            self._metrics.refused(Overloaded.code)
            msg = f"The queue is full: {self._images} images are waiting or being made, the limit is {self._limit}."
            raise Overloaded(msg, retry_after=self.patience(wait_seconds))
        self.take(images)

    def patience(self, wait_seconds: float) -> float:
        """What a client is told to wait where ``wait_seconds`` are needed: within what clients obey."""
        return min(max(wait_seconds, _LEAST_RETRY), _MOST_RETRY)

    def take(self, images: int, *, bulk: bool = False) -> None:
        """``images`` that were accepted before are at work now; ``bulk``: behind all others."""
        if bulk:
            self._bulk += images
        else:
            self._images += images
        self._metrics.queue(self.images)

    def leave(self, images: int, *, bulk: bool = False) -> None:
        """``images`` that came in so are finished, in whatever way."""
        self.take(-images, bulk=bulk)
