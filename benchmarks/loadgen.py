"""Clients: so many at once (closed loop), or arrivals at a rate whatever the server does (open loop)."""

import asyncio
import base64
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from workload import Job, picture

TIMEOUT = httpx.Timeout(600.0, connect=5.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request; times are seconds since the round began."""

    job: Job
    sent: float
    done: float
    processing: float
    """Seconds that the server says it worked on it (header openai-processing-ms), waiting for a lock not included."""
    error: str | None = None

    @property
    def latency(self) -> float:
        """Seconds from sending to the last byte of the answer."""
        return self.done - self.sent


@dataclass(frozen=True, slots=True)
class Round:
    """What one run of clients measured."""

    samples: tuple[Sample, ...]
    full: float
    """Until then every client had a request in flight, or requests arrived; afterwards the server only emptied."""

    def credit(self, sample: Sample) -> float:
        """How much of the work on a request lies before ``full``: an image half of whose processing does counts a half."""
        began = sample.done - sample.processing
        return 0.0 if sample.error else min(1.0, max(0.0, self.full - began) / max(sample.processing, 1e-6))

    @property
    def errors(self) -> list[str]:
        """Why requests failed, if any did."""
        return [sample.error for sample in self.samples if sample.error is not None]


def client(url: str) -> httpx.AsyncClient:
    """An HTTP client without limits on connections or patience."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits, trust_env=False)


async def draw(http: httpx.AsyncClient, job: Job) -> tuple[bytes, float]:
    """Send one job through the OpenAI Images API; returns the PNG and the seconds of processing."""
    if job.kind == "txt2img":
        response = await http.post("/v1/images/generations", json=job.fields)
    else:
        fields = {name: str(value) for name, value in job.fields.items()}
        files = {"image": ("input.png", picture(job.width, job.height), "image/png")}
        response = await http.post("/v1/images/edits", data=fields, files=files)
    if response.status_code != httpx.codes.OK:
        message = f"{response.status_code} {response.text[:200]}"
        raise RuntimeError(message)
    png = base64.b64decode(response.json()["data"][0]["b64_json"])
    return png, float(response.headers.get("openai-processing-ms", "nan")) / 1000


async def _timed(http: httpx.AsyncClient, job: Job, zero: float) -> Sample:
    sent, processing, error = time.perf_counter() - zero, 0.0, None
    try:
        _, processing = await draw(http, job)
    except (RuntimeError, httpx.HTTPError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Sample(job, sent, time.perf_counter() - zero, processing, error)


async def closed_loop(url: str, work: Sequence[Job], clients: int) -> Round:
    """``clients`` of them take jobs from one list until it is empty."""
    queue = iter(work)
    samples: list[Sample] = []
    zero = time.perf_counter()

    async def one(http: httpx.AsyncClient) -> None:
        for job in queue:
            sample = await _timed(http, job, zero)
            samples.append(sample)

    async with client(url) as http, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one(http))
    return Round(tuple(samples), full=max(sample.sent for sample in samples))


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Times of a Poisson process, the first at once."""
    dice, now, times = random.Random(seed), 0.0, [0.0]
    while (now := now + dice.expovariate(rate)) < seconds:
        times.append(now)
    return times


async def open_loop(url: str, work: Sequence[Job], times: Sequence[float]) -> Round:
    """Job k is sent at ``times[k]``, answered or not what came before."""
    zero = time.perf_counter()

    async def one(http: httpx.AsyncClient, job: Job, at: float) -> Sample:
        await asyncio.sleep(max(0.0, zero + at - time.perf_counter()))
        return await _timed(http, job, zero)

    async with client(url) as http, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(http, job, at)) for job, at in zip(work, times, strict=False)]
    return Round(tuple(task.result() for task in tasks), full=times[-1])
