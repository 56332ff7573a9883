"""The one place where pixels become stored files."""

import asyncio
import contextlib
import time

import msgspec

from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest
from server.domain.asset import Asset, Delivery, Told
from server.domain.call import Call
from server.domain.failures import StorageFailure
from server.domain.generation import Route, Usage
from server.domain.ports import AssetStore
from server.gateway.describing import metadata, parameters
from server.providers.provider import Provider
from server.storage.encode import encode, reduced
from server.telemetry.metrics import Metrics


class Finished(msgspec.Struct, frozen=True):
    """What a request ended in."""

    assets: tuple[Asset, ...]
    stats: RunStats
    route: Route = Route()
    usage: Usage = Usage()


class Gateway:
    """A provider's pictures, encoded and stored."""

    __slots__ = ("_metrics", "_provider", "_store", "_threads", "_told")

    def __init__(
        self, provider: Provider, store: AssetStore, metrics: Metrics, *, threads: int = 4, told: Told = Told.ALL
    ) -> None:
        """``told``: what files tell of how they were made, where the delivery does not say."""
        self._told = told
        self._provider = provider
        self._store = store
        self._metrics = metrics
        self._threads = asyncio.Semaphore(threads)

    async def generate(self, request: ImageRequest, delivery: Delivery, call: Call) -> Finished:
        """Make, encode and store the images of ``request``."""
        generation = await self._provider.generate(request, call)
        made = zip(generation.pictures, generation.seeds, strict=True)
        ends = await asyncio.gather(
            *(self._finish(request, delivery, picture, seed, call) for picture, seed in made), return_exceptions=True
        )
        assets = tuple(end for end in ends if not isinstance(end, BaseException))
        failed = next((end for end in ends if isinstance(end, BaseException)), None)
        if failed is not None:
            # The request has no result, so none of its files has a reader.
            with contextlib.suppress(StorageFailure):
                await self._store.delete(call.tenant, [asset.name for asset in assets])
            raise failed
        return Finished(assets, generation.stats, generation.route, generation.usage)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin."""
        return self._provider.wait_seconds(pixel_steps)

    async def _finish(self, request: ImageRequest, delivery: Delivery, picture: Picture, seed: int, call: Call) -> Asset:
        text, asked = parameters(request, seed), metadata(request, seed)
        told = delivery.metadata or self._told
        async with self._threads:
            began = time.perf_counter()
            size = delivery.size(picture.width, picture.height)
            words = (text if told.infotext else None, asked if told.request else None)
            data = await asyncio.to_thread(_file, picture, size, delivery, words)
            self._metrics.encoded(delivery.format.value, time.perf_counter() - began)
        kept = msgspec.json.encode({"parameters": text, "request": msgspec.Raw(asked.encode())})
        return await self._store.put(data, delivery.format, size, seed, tenant=call.tenant, job_id=call.id, metadata=kept)


def _file(picture: Picture, size: tuple[int, int], delivery: Delivery, words: tuple[str | None, str | None]) -> bytes:
    return encode(reduced(picture, *size), delivery, *words)
