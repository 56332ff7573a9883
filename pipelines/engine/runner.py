"""What the engine needs from whoever computes: real tensors (`torch_runner`) or colour gradients (`fake`)."""

from collections.abc import Callable, Iterable
from typing import Protocol

from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.row import RowId

LoadProgress = Callable[[str, float], None]
"""Told the component at hand and the fraction done, 0..1."""


class Runner(Protocol):
    """The only owner of tensors; one device, one batch at a time."""

    def load(self, card: ModelCard, progress: LoadProgress) -> ModelFacts:
        """Make the model of ``card`` ready; raises `ModelLoadFailed`."""
        ...

    def unload(self, model: str) -> None:
        """Free the model's weights; its rows are gone already."""
        ...

    def run(self, batch: Batch) -> Outcome:
        """Compute ``batch``. Memory running out and rows at fault are part of the outcome; a broken device is raised."""
        ...

    def drop(self, rows: Iterable[RowId]) -> None:
        """Free what is held for these rows; unknown ones are ignored."""
        ...
