"""Who gets in: a bound on the images accepted and not finished."""

from pipelines.contract.errors import Overloaded, ShuttingDown
from server.telemetry.metrics import Metrics

_LEAST_RETRY, _MOST_RETRY = 1.0, 120.0
"""OpenAI's Python client does not retry at all when told to wait for more than 120 seconds."""


class Admission:
    """Counts images from their admission to their end."""

    __slots__ = ("_closed", "_images", "_limit", "_metrics")

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._images = 0
        self._closed = False

    @property
    def images(self) -> int:
        """Images accepted and not finished."""
        return self._images

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

    def take(self, images: int) -> None:
        """``images`` that were accepted before are at work now."""
        self._images += images
        self._metrics.queue(self._images)

    def leave(self, images: int) -> None:
        """``images`` are finished, in whatever way."""
        self._images -= images
        self._metrics.queue(self._images)
