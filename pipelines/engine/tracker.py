"""What is known of each request in flight: which images are out, and where the time went."""

from dataclasses import dataclass, field

from pipelines.contract.messages import Phase, RunStats
from pipelines.contract.request import ImageRequest
from pipelines.engine.batch import Batch


@dataclass(slots=True)
class _Track:
    request: ImageRequest
    arrived: float
    pending: set[int]
    began: float | None = None
    first_tick: float | None = None
    last_tick: float = 0.0
    seconds: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    evaluations: int = 0
    company: int = 0
    ticks: int = 0
    device_seconds: float = 0.0


class Tracker:
    """Owns the books on requests; times are monotonic seconds."""

    __slots__ = ("_tracks",)

    def __init__(self) -> None:
        """No request is in flight."""
        self._tracks: dict[str, _Track] = {}

    def __contains__(self, request: str) -> bool:
        """Whether the request is in flight."""
        return request in self._tracks

    def __len__(self) -> int:
        """Requests in flight."""
        return len(self._tracks)

    def open(self, request: ImageRequest, now: float) -> None:
        """Begin the books on ``request``."""
        self._tracks[request.id] = _Track(request, now, set(range(len(request.seeds))))

    def close(self, request: str) -> ImageRequest:
        """End them; returns the request."""
        return self._tracks.pop(request).request

    def late(self, wall: float) -> list[ImageRequest]:
        """Requests whose deadline (Unix time) lies before ``wall``."""
        return [
            track.request
            for track in self._tracks.values()
            if track.request.deadline is not None and track.request.deadline < wall
        ]

    def next_deadline(self) -> float | None:
        """The earliest deadline (Unix time) of a request in flight."""
        return min(
            (track.request.deadline for track in self._tracks.values() if track.request.deadline is not None), default=None
        )

    def charge(self, batch: Batch, began: float, ended: float) -> None:
        """Book a batch to the requests that had rows in it."""
        shares: dict[str, float] = {}
        for row, cost in zip(batch.rows, batch.costs or (1,) * len(batch.rows), strict=True):
            shares[row.request.id] = shares.get(row.request.id, 0.0) + cost / batch.size
        for request, share in shares.items():
            track = self._tracks[request]
            track.device_seconds += (ended - began) * share
            track.began = began if track.began is None else track.began
            track.seconds[batch.phase] += ended - began
            if batch.phase is Phase.DENOISE:
                track.first_tick = began if track.first_tick is None else track.first_tick
                track.last_tick = ended
                track.ticks += 1
                track.company += batch.size
                track.evaluations += sum(row.cost for row in batch.rows if row.request.id == request)

    def image_done(self, request: str, image: int) -> bool:
        """Note a finished image; True when it was the last."""
        pending = self._tracks[request].pending
        pending.discard(image)
        return not pending

    def stats(self, request: str) -> RunStats:
        """Where the time of ``request`` went so far."""
        track = self._tracks[request]
        return RunStats(
            queue_seconds=(track.arrived if track.began is None else track.began) - track.arrived,
            encode_seconds=track.seconds[Phase.ENCODE],
            denoise_seconds=0.0 if track.first_tick is None else track.last_tick - track.first_tick,
            decode_seconds=track.seconds[Phase.DECODE],
            evaluations=track.evaluations,
            company=track.company / max(track.ticks, 1),
            enlarge_seconds=track.seconds[Phase.ENLARGE],
            device_seconds=track.device_seconds,
        )
