"""The one place where pixels become stored files."""

import asyncio
import time
from typing import Protocol

import msgspec

from pipelines.contract.loras import tag
from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest
from server.domain.asset import Asset, Delivery
from server.domain.caching import CacheResult
from server.domain.call import Call
from server.domain.generation import Route, Usage
from server.domain.ports import AssetStore
from server.providers.provider import Provider
from server.storage.encode import encode, reduced
from server.telemetry.metrics import Metrics


class Finished(msgspec.Struct, frozen=True):
    """What a request ended in."""

    assets: tuple[Asset, ...]
    stats: RunStats
    route: Route = Route()
    usage: Usage = Usage()
    cache: CacheResult = CacheResult.OFF


class Finisher(Protocol):
    """Ends requests in stored files. Cancelling the task cancels the work."""

    async def generate(self, request: ImageRequest, delivery: Delivery, call: Call) -> Finished:
        """The images of ``request``, stored; raises an `AquatintError` if it cannot be done."""
        ...

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin."""
        ...


class Gateway:
    """A provider's pictures, encoded and stored."""

    __slots__ = ("_metrics", "_provider", "_store", "_threads")

    def __init__(self, provider: Provider, store: AssetStore, metrics: Metrics, *, threads: int = 4) -> None:
        self._provider = provider
        self._store = store
        self._metrics = metrics
        self._threads = asyncio.Semaphore(threads)

    async def generate(self, request: ImageRequest, delivery: Delivery, call: Call) -> Finished:
        """Make, encode and store the images of ``request``."""
        generation = await self._provider.generate(request, call)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._finish(request, delivery, picture, seed))
                for picture, seed in zip(generation.pictures, generation.seeds, strict=True)
            ]
        return Finished(tuple(task.result() for task in tasks), generation.stats, generation.route, generation.usage)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin."""
        return self._provider.wait_seconds(pixel_steps)

    async def _finish(self, request: ImageRequest, delivery: Delivery, picture: Picture, seed: int) -> Asset:
        async with self._threads:
            began = time.perf_counter()
            size = delivery.size(picture.width, picture.height)
            data = await asyncio.to_thread(_file, picture, size, delivery, parameters(request, seed))
            self._metrics.encoded(delivery.format.value, time.perf_counter() - began)
        name = await self._store.put(data, delivery.format)
        return Asset(name, delivery.format, *size, seed, len(data))


def _file(picture: Picture, size: tuple[int, int], delivery: Delivery, text: str) -> bytes:
    return encode(reduced(picture, *size), delivery, text)


def parameters(request: ImageRequest, seed: int) -> str:
    """How to make the image again, in the text form that Stable Diffusion tools read and write."""
    sampling = request.sampling
    facts: dict[str, object] = {
        "Steps": sampling.steps,
        "Sampler": sampling.sampler,
        "CFG scale": f"{sampling.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
    }
    if sampling.scheduler is not None:
        facts["Schedule type"] = sampling.scheduler
    if request.init is not None:
        facts["Denoising strength"] = f"{request.init.strength:g}"
    if request.style is not None:
        facts["Style"] = request.style.name
    if request.clip_skip:
        facts["Clip skip"] = request.clip_skip + 1
    if request.hires is not None:
        facts["Hires resize"] = f"{request.hires.width}x{request.hires.height}"
        facts["Hires upscaler"] = request.hires.card.name if request.hires.card else request.hires.enlarger.value
        facts["Hires denoising strength"] = f"{request.hires.strength:g}"
    for index, use in enumerate(request.controls):
        facts[f"ControlNet {index}"] = f'"Model: {use.card.name}, Module: {use.preprocessor or "none"}, Weight: {use.weight:g}"'
    tags = [tag(use.card.name, use.text_weight, use.weight) for use in request.loras]
    lines = [" ".join([request.prompt, *tags])]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{key}: {value}" for key, value in facts.items()) + ", Version: aquatint")
    return "\n".join(lines)
