"""An engine driven by hand: requests put in at chosen ticks, latents kept before their rows are let go."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pipelines.contract.catalog import Limits, ModelCard
from pipelines.contract.messages import Event, Failed, ImageDone, Phase
from pipelines.contract.request import ImageRequest
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.engine import Engine
from pipelines.engine.row import RowId
from pipelines.engine.scheduler import Policy, Scheduler
from pipelines.engine.torch_runner import TorchRunner
from pipelines.families.family import Family


class Recording(TorchRunner):
    """A torch runner that remembers final latents and every batch."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.final: dict[RowId, torch.Tensor] = {}
        self.batches: list[Batch] = []

    def run(self, batch: Batch) -> Outcome:
        self.batches.append(batch)
        if batch.phase is Phase.DECODE:
            self.final |= {row.id: self.latents(row.id) for row in batch.rows}
        return super().run(batch)


class Result:
    def __init__(self, runner: Recording, events: Sequence[Event]) -> None:
        self.latents = runner.final
        self.batches = runner.batches
        self.runner = runner
        self.events = events
        self.failed = {event.id: event.error for event in events if isinstance(event, Failed)}
        self.pixels: dict[RowId, np.ndarray] = {
            (event.id, event.image): np.frombuffer(event.picture.data, np.uint8).reshape(
                event.picture.height, event.picture.width, 3
            )
            for event in events
            if isinstance(event, ImageDone)
        }


def run(
    families: Mapping[str, Family],
    requests: Sequence[ImageRequest],
    *,
    join: Sequence[int] | None = None,
    max_rows: int = 16,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    recording: type[Recording] = Recording,
) -> Result:
    """Everything the engine does with ``requests``, each added before the batch whose number ``join`` gives."""
    runner = recording(next(iter(families.values())).device)
    scheduler = Scheduler(policy)
    engine = Engine(runner, scheduler)
    for name, family in families.items():
        runner.add(name, family)
        engine.adopt(ModelCard(id=name, source="", family=family.facts.family, limits=Limits(max_rows=max_rows)))
    waiting = sorted(zip(join or [0] * len(requests), requests, strict=True), key=lambda pair: pair[0])
    events: list[Event] = []
    batch = 0
    while waiting or engine.busy:
        while waiting and (waiting[0][0] <= batch or not engine.busy):
            events += engine.generate(waiting.pop(0)[1])
        events += engine.step()
        batch += 1
    return Result(runner, events)
