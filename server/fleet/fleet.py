"""All workers as one: where a request goes, and what happens when a worker dies."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from structlog.typing import FilteringBoundLogger

from pipelines.contract.errors import ShuttingDown, WorkerLost
from pipelines.contract.request import ImageRequest
from server.catalog.catalog import Catalog
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.generation import Generation
from server.fleet.flight import Flight
from server.fleet.health import WorkerHealth
from server.fleet.host import Host
from server.fleet.supervisor import Patience, Supervisor
from server.telemetry.metrics import Metrics

LOAD_PENALTY_SECONDS = 20.0
"""How much longer a queue may be before another worker loads the model too."""
LEAVE_SECONDS = 10.0
"""Time for workers to leave once nothing is in flight."""


class Fleet:
    """The workers of this server, one per device."""

    __slots__ = ("_log", "_stopping", "_supervisors")

    def __init__(
        self,
        devices: Iterable[str],
        *,
        host: Host,
        catalog: Catalog,
        patience: Patience,
        clock: Clock,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._log = log
        self._stopping = False
        self._supervisors = tuple(
            Supervisor(
                f"worker-{index}",
                device,
                host=host,
                catalog=catalog,
                patience=patience,
                clock=clock,
                metrics=metrics,
                log=log,
                displaced=self._replace,
            )
            for index, device in enumerate(devices)
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Fleet"]:
        """Workers live inside this block; at its end they are drained."""
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(each.run(), name=each.name) for each in self._supervisors]
            try:
                yield self
            finally:
                await self._drain(lives)

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` on some worker; cancelling the task cancels the work."""
        if self._stopping:
            msg = "The server is shutting down."
            raise ShuttingDown(msg)
        flight = Flight(request, call)
        self._place(flight)
        try:
            return await flight.result
        except asyncio.CancelledError:
            for each in self._supervisors:
                each.withdraw(flight)
            raise

    def health(self) -> tuple[WorkerHealth, ...]:
        """How each worker stands."""
        return tuple(each.health() for each in self._supervisors)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin, judging by what waits and how fast it goes."""
        alive = [each for each in self._supervisors if not each.failed] or list(self._supervisors)
        rate = sum(each.pace.rate for each in alive)
        return (sum(each.backlog for each in alive) + pixel_steps) / rate

    def _place(self, flight: Flight) -> None:
        alive = [each for each in self._supervisors if not each.failed]
        if not alive:
            reasons = "; ".join(f"{each.name} on {each.device}: {each.reason}" for each in self._supervisors)
            flight.fail(WorkerLost(f"No worker can be started ({reasons}).", retry_after=30.0))
            return

        def cost(supervisor: Supervisor) -> float:
            missing = sum(not supervisor.has(model) for model in flight.request.models)
            return supervisor.backlog / supervisor.pace.rate + missing * LOAD_PENALTY_SECONDS

        min(alive, key=cost).submit(flight)

    def _replace(self, flights: Iterable[Flight]) -> None:
        for flight in flights:
            if flight.over:
                continue
            if self._stopping:
                flight.fail(ShuttingDown("The server is shutting down."))
            else:
                self._place(flight)

    async def _drain(self, lives: "list[asyncio.Task[None]]") -> None:
        self._stopping = True
        for each in self._supervisors:
            self._replace(each.abandon())
            each.stop()
        _, late = await asyncio.wait(lives, timeout=LEAVE_SECONDS)
        if late:
            self._log.warning("workers do not leave; killing them", workers=[task.get_name() for task in late])
            for each in self._supervisors:
                each.kill()
            await asyncio.wait(late)
