"""Images made by our own workers."""

from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation
from server.fleet.fleet import Fleet


class LocalProvider:
    """The fleet, as a provider."""

    __slots__ = ("_fleet",)

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request`` on a worker."""
        return await self._fleet.generate(request, call)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """Judge by the workers' backlog and pace."""
        return self._fleet.wait_seconds(pixel_steps)
