"""Batches that are remembered, as the core needs them from a database."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from pipelines.contract.errors import ErrorReport
from server.domain.batch import Batch, BatchPage, Line, Result, Standing
from server.domain.job import Job


class BatchComposer(Protocol):
    """Words the message about a batch that is over."""

    def __call__(self, batch: Batch, standing: Standing) -> bytes:
        """Its body."""
        ...


@runtime_checkable
class BatchRepository(Protocol):
    """Remembers batches and their lines; every change has happened, for good, once the call returns."""

    async def begin(self, batch: Batch) -> None:
        """Insert ``batch``, whose lines come; what is left of one of that id that was never accepted goes first.

        Raises `EngineFailure` if another server has accepted it meanwhile.
        """
        ...

    async def receive(self, batch: Batch, lines: Sequence[Line], inputs: Mapping[str, bytes]) -> None:
        """Add lines, and pictures that they are the first to name. Raises `EngineFailure` as `accept` does."""
        ...

    async def accept(self, batch: Batch) -> None:
        """From now on every line of it will be done. Raises `EngineFailure` if another server receives it by now."""
        ...

    async def abandon(self, batch: Batch) -> None:
        """Forget it unless it was accepted, or another server receives it by now."""
        ...

    async def get(self, batch_id: str) -> Batch | None:
        """The batch; None if it is not known, not accepted, or deleted."""
        ...

    async def standing(self, batch_id: str) -> Standing:
        """How its lines stand."""
        ...

    async def page(self, tenant: str, after: tuple[float, str] | None, most: int) -> BatchPage:
        """The newest ``most`` batches of ``tenant``, from the one after ``after`` (creation time and id) on."""
        ...

    async def open(self, tenant: str) -> int:
        """How many batches of ``tenant`` are not over."""
        ...

    async def results(self, batch_id: str, after: int, most: int) -> tuple[Result, ...]:
        """Lines after number ``after``, in the order of the file, up to the first that is not over."""
        ...

    async def input(self, batch_id: str, name: str) -> bytes | None:
        """A picture of the batch, as it was sent."""
        ...

    async def room(self) -> int:
        """Images of batches that are queued as jobs."""
        ...

    async def hungry(self, most: int) -> tuple[str, ...]:
        """Running batches with lines that are no jobs yet; first who has waited longest."""
        ...

    async def waiting(self, batch_id: str, images: int) -> tuple[Line, ...]:
        """The next lines of it that are no jobs yet: as many as make up to ``images`` images, one at least."""
        ...

    async def enqueue(self, batch_id: str, jobs: Mapping[int, Job | ErrorReport]) -> tuple[Job, ...]:
        """Make jobs of the lines with those numbers, or end them with an error; those that became jobs by this call.

        Each line becomes a job once, whoever calls this at the same time, and none does once the batch is cancelled.
        """
        ...

    async def cancel(self, batch_id: str) -> None:
        """No line of it becomes a job any more; nothing happens to a batch that is over."""
        ...

    async def cancelling(self) -> tuple[str, ...]:
        """Some ids of jobs whose batches are cancelled."""
        ...

    async def finish(self) -> tuple[Batch, ...]:
        """End batches that have nothing left to do, and write the messages that tell of it; those that ended."""
        ...

    async def delete(self, batch_id: str) -> bool:
        """Have a batch that is over forgotten: from now on nobody is shown it; False if there is none such.

        Its lines stay, as `results`, until they are dropped: so that what their jobs have made can be found.
        """
        ...

    async def deleted(self) -> Batch | None:
        """One that was deleted and is not dropped yet."""
        ...

    async def drop(self, batch: Batch, upto: int) -> None:
        """Forget the lines of a deleted batch up to number ``upto``, and itself with the last of them."""
        ...

    async def forget(self, finished_before: float, touched_before: float) -> int:
        """Delete some that were over before, or not accepted and nothing came of them since; how many."""
        ...
