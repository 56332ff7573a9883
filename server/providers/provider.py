"""The one protocol between a job and whoever makes its images."""

from typing import Protocol

from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation


class Provider(Protocol):
    """Makes images. Result by return, progress by ``call.emit``; cancelling the task cancels the work."""

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Run ``request``; raises an `AquatintError` if it cannot be done."""
        ...

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """How long until so much new work could begin."""
        ...
