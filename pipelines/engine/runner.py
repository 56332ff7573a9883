"""What the engine needs from whoever computes: real tensors (`torch_runner`) or colour gradients (`fake`)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from pipelines.contract.adapters import AdapterCard
from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.engine.batch import Batch, Outcome
from pipelines.engine.row import RowId
from pipelines.memory.residency import Weights

LoadProgress = Callable[[str, float], None]
"""Told the component at hand and the fraction done, 0..1."""


class DeviceFault(Exception):
    """The device is in a state that no later call can trust; the process must end."""


class Shelf(msgspec.Struct, frozen=True):
    """Weights that are on the device or in RAM already, for a model that is about to be loaded."""

    own: Mapping[str, Weights] = {}
    """What it had the last time and others still have, by component: not to be read again."""
    others: tuple[tuple[str, Weights], ...] = ()
    """Everybody's components: one that turns out equal takes the place of the one just read."""


class Loaded(msgspec.Struct, frozen=True):
    """A model on the device, not yet installed."""

    facts: ModelFacts
    weights: Mapping[str, Weights]
    """By component; those taken from the shelf are the same objects."""
    body: object
    """What the runner itself needs to install it."""


AdapterKey = tuple[str, ...]
"""Equal for what can be opened once and used by all: an adapter, and as much of the model as it is bound to."""


class OpenAdapter(Protocol):
    """An adapter on the device."""

    @property
    def bytes(self) -> int:
        """What it takes up there."""
        ...


class Runner(Protocol):
    """The only owner of tensors; one device, one batch at a time.

    `load` and `free` may be called from another thread while `run` computes: they touch nothing that batches use.
    """

    def expected(self, card: ModelCard) -> int:
        """Bytes that the model of ``card`` will take up, as far as its source tells without loading it; 0 if it does not."""
        ...

    def load(self, card: ModelCard, shelf: Shelf, progress: LoadProgress) -> Loaded:
        """Bring the model of ``card`` to the device.

        Raises `ModelLoadFailed`; `OutOfMemory` or `MemoryError` if more room would help; `DeviceFault`.
        """
        ...

    def install(self, model: str, loaded: Loaded) -> None:
        """Make it ready for batches."""
        ...

    def park(self, model: str) -> None:
        """Its weights are about to go to RAM: let go of what else it has on the device."""
        ...

    def unload(self, model: str) -> None:
        """Forget it: its rows are gone already, its weights are about to be."""
        ...

    def free(self) -> None:
        """Give memory that nobody uses any more back to the device."""
        ...

    def adapter_key(self, model: str, card: AdapterCard) -> AdapterKey:
        """What the adapter of ``card`` is called where it is made fit for ``model``, which is loaded."""
        ...

    def open_adapter(self, model: str, card: AdapterCard) -> Callable[[LoadProgress], OpenAdapter]:
        """The work of bringing it to the device, to be done in another thread while `run` computes.

        The work raises `AquatintError` for what cannot be had, `OutOfMemory` or `MemoryError` if more room would help.
        """
        ...

    def install_adapter(self, key: AdapterKey, adapter: OpenAdapter) -> None:
        """Rows that begin from now on may use it."""
        ...

    def drop_adapter(self, key: AdapterKey) -> None:
        """Let go of it; no row that has begun uses it."""
        ...

    def run(self, batch: Batch) -> Outcome:
        """Compute ``batch``. Memory running out and rows at fault are part of the outcome; a broken device is raised."""
        ...

    def drop(self, rows: Iterable[RowId]) -> None:
        """Free what is held for these rows; unknown ones are ignored."""
        ...
