"""Images per second of the engine alone: no HTTP, no PNG, one process."""

import time
from pathlib import Path
from typing import Any

from limit import Size
from workload import take

from pipelines.contract.catalog import Dtype, Limits, ModelCard
from pipelines.contract.family import Family
from pipelines.contract.messages import Completed, Event, Failed, ModelFailed, Phase, Tick
from pipelines.contract.request import ImageRequest, Sampling
from pipelines.engine.engine import Engine
from pipelines.engine.scheduler import Scheduler
from pipelines.worker.device import open_device


def measure(model: Path, device: str, dtype: str, size: Size, images: int = 24) -> dict[str, Any]:
    """Unlike requests of one size, all there from the beginning; a first quarter of them warms up and does not count."""
    opened = open_device("cuda:0" if device == "cuda" else device, 0)
    engine = Engine(opened.runner, Scheduler(opened.policy))
    limits = Limits(max_pixels=size[0] * size[1], max_rows=16)
    card = ModelCard("model", f"dir:{model.absolute()}", Family.SD, dtype=Dtype(dtype), limits=limits)
    failed = [event for event in (*engine.load(card), *engine.step()) if isinstance(event, ModelFailed)]
    if failed:
        return {"error": failed[0].error.message}
    requests = [
        ImageRequest(
            id=str(job.number),
            model="model",
            prompt=job.prompt,
            width=size[0],
            height=size[1],
            seeds=(job.seed,),
            sampling=Sampling(job.sampler, job.steps, job.guidance),
        )
        for job in take(images + images // 4)
    ]
    _run(engine, requests[: images // 4])
    start = time.perf_counter()
    events = _run(engine, requests[images // 4 :])
    seconds = time.perf_counter() - start
    ticks = [event for event in events if isinstance(event, Tick) and event.phase is Phase.DENOISE]
    evaluations = sum(tick.evaluations for tick in ticks)
    return {
        "images": sum(isinstance(event, Completed) for event in events),
        "failed": [event.error.message for event in events if isinstance(event, Failed)],
        "images_per_second": round(images / seconds, 3),
        "evaluations_per_second": round(evaluations / seconds, 2),
        "rows_per_tick": round(evaluations / max(1, len(ticks)), 2),
        "out_of_memory": sum(tick.out_of_memory for tick in ticks),
    }


def _run(engine: Engine, requests: list[ImageRequest]) -> list[Event]:
    events = [event for request in requests for event in engine.generate(request)]
    while engine.busy:
        events += engine.step()
    return events
