"""Baseline (c): equal requests that arrive within a window share one pipeline call; unequal ones wait their turn."""

import asyncio
import time
from dataclasses import dataclass, field

from baseline_http import Draw, main
from PIL import Image
from reference import Reference
from workload import Job

WINDOW = 0.05
"""Seconds that the first request of a batch waits for others."""
LARGEST = 8
"""Images in one pipeline call: 16 rows when guided, as many as Aquatint's largest tick."""


@dataclass(slots=True)
class Waiting:
    """A request in the queue; equal keys may share a call."""

    job: Job
    picture: bytes
    arrived: float = field(default_factory=time.monotonic)
    image: asyncio.Future[tuple[Image.Image, float]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def key(self) -> tuple[object, ...]:
        """What a pipeline call has only one of."""
        job = self.job
        return job.kind, job.size, job.steps, job.sampler, job.guidance, job.strength


class Batcher:
    """A queue with one consumer that owns the pipelines."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.queue: list[Waiting] = []
        self.arrived = asyncio.Event()
        self.consumer: asyncio.Task[None] | None = None

    async def draw(self, job: Job, picture: bytes) -> tuple[Image.Image, float]:
        """Queue the job and wait for its image."""
        self.consumer = self.consumer or asyncio.create_task(self.consume())
        waiting = Waiting(job, picture)
        self.queue.append(waiting)
        self.arrived.set()
        return await waiting.image

    async def consume(self) -> None:
        """For ever: the oldest request, and whatever equals it once the window has passed."""
        while True:
            while not self.queue:
                self.arrived.clear()
                await self.arrived.wait()
            await asyncio.sleep(max(0.0, self.queue[0].arrived + WINDOW - time.monotonic()))
            batch = [waiting for waiting in self.queue if waiting.key == self.queue[0].key][:LARGEST]
            self.queue = [waiting for waiting in self.queue if waiting not in batch]
            jobs, pictures = [waiting.job for waiting in batch], [waiting.picture for waiting in batch]
            try:
                images, seconds = await asyncio.to_thread(self.reference.timed, jobs, pictures)
            except Exception as failure:  # noqa: BLE001  whatever it was, its requests must hear of it
                for waiting in batch:
                    waiting.image.set_exception(failure)
            else:
                for waiting, image in zip(batch, images, strict=True):
                    waiting.image.set_result((image, seconds))


def batched(reference: Reference) -> Draw:
    """Request-level batching with a waiting window."""
    return Batcher(reference).draw


if __name__ == "__main__":
    main("request-level batching of equal requests", batched)
