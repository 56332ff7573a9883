"""Baseline (b): a diffusers pipeline behind HTTP with a lock, as most servers do it."""

import asyncio

from baseline_http import Draw, main
from PIL import Image
from reference import Reference
from workload import Job


def serial(reference: Reference) -> Draw:
    """One request at a time, first come, first served."""
    lock = asyncio.Lock()

    async def draw(job: Job, picture: bytes) -> tuple[Image.Image, float]:
        async with lock:
            images, seconds = await asyncio.to_thread(reference.timed, [job], [picture])
        return images[0], seconds

    return draw


if __name__ == "__main__":
    main("diffusers behind a lock", serial)
