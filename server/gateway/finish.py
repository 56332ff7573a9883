"""The one place where pixels become stored files."""

import asyncio
import contextlib
import time
from typing import Protocol

import msgspec

from pipelines.contract.messages import RunStats
from pipelines.contract.request import ImageRequest
from server.domain.aside import aside
from server.domain.asset import Asset, Delivery, Told
from server.domain.caching import CacheResult
from server.domain.call import Call
from server.domain.failures import StorageFailure
from server.domain.generation import LOCAL, Route, Usage
from server.domain.ports.assets import AssetStore
from server.domain.stored import New
from server.domain.verdict import Verdict
from server.gateway.describing import metadata, parameters, told_of_upstream
from server.gateway.provenance import Made, Provenance, made
from server.providers.provider import Provider
from server.providers.received import opened
from server.storage.encode import encode, reduced
from server.telemetry.metrics import Metrics


class Finished(msgspec.Struct, frozen=True):
    """What a request ended in."""

    assets: tuple[Asset, ...]
    stats: RunStats
    route: Route = Route()
    usage: Usage = Usage()
    verdicts: tuple[Verdict, ...] = ()
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
    """A provider's pictures, encoded, signed and stored."""

    __slots__ = ("_metrics", "_provenance", "_provider", "_store", "_threads", "_told")

    def __init__(
        self,
        provider: Provider,
        store: AssetStore,
        metrics: Metrics,
        *,
        provenance: Provenance | None = None,
        threads: int = 4,
        told: Told = Told.ALL,
    ) -> None:
        """``told``: what files tell of how they were made, where the delivery does not say."""
        self._told = told
        self._provider = provider
        self._store = store
        self._metrics = metrics
        self._provenance = provenance or Provenance()
        self._threads = asyncio.Semaphore(threads)

    async def generate(self, request: ImageRequest, delivery: Delivery, call: Call) -> Finished:
        """Make, encode, sign and store the images of ``request``."""
        generation = await self._provider.generate(request, call)
        finishing = [self._finish(each) for each in made(generation, request, delivery, call)]
        ends = await asyncio.gather(*finishing, return_exceptions=True)
        assets = tuple(end for end in ends if not isinstance(end, BaseException))
        failed = next((end for end in ends if isinstance(end, BaseException)), None)
        if failed is not None:
            # The request has no result, so none of its files has a reader.
            with contextlib.suppress(StorageFailure):
                await self._store.delete(call.tenant, [asset.name for asset in assets])
            raise failed
        return Finished(assets, generation.stats, generation.route, generation.usage, generation.verdicts)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin."""
        return self._provider.wait_seconds(pixel_steps)

    async def _finish(self, made: Made) -> Asset:
        form, call = made.delivery.format, made.call
        ours = made.road.partition(":")[0] == LOCAL
        text = parameters(made.request, made.seed) if ours else told_of_upstream(made.request, made.model)
        asked = metadata(made.request, made.seed)
        told = made.delivery.metadata or self._told
        words = (text if told.infotext else None, asked if told.request else None)
        data = await self._encoded(made, words)
        kept = msgspec.json.encode({"parameters": text, "request": msgspec.Raw(asked.encode())})
        new = New(form, *made.size, made.seed, call.tenant, call.id, metadata=kept, awaited=not call.durable)
        return await self._store.put(data, new)

    async def _encoded(self, made: Made, words: tuple[str | None, str | None]) -> bytes:
        """The file to deliver: an upstream's own, or one of ours."""
        if made.file is not None:
            kept = await aside(len(made.file), lambda: self._provenance.untouched(made))
            if kept is not None:
                return kept
        async with self._threads:
            began = time.perf_counter()
            data = await asyncio.to_thread(self._file, made, words)
            self._metrics.encoded(made.delivery.format.value, time.perf_counter() - began)
        return data

    def _file(self, made: Made, words: tuple[str | None, str | None]) -> bytes:
        """A file of ours; runs in a thread."""
        picture = reduced(opened(made.picture), *made.size)
        data = encode(picture, made.delivery, *words, xmp=self._provenance.metadata(made))
        return self._provenance.signed(data, made)
