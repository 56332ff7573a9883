"""A provider made of a function: for tests, and for trying a front end without workers."""

from collections.abc import Awaitable, Callable

from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation

Function = Callable[[ImageRequest, Call], Awaitable[Generation]]


class FunctionProvider:
    """Calls ``function``; by default every image is one flat colour, chosen by its seed."""

    __slots__ = ("_function", "_wait")

    def __init__(self, function: Function | None = None, *, wait: float = 1.0) -> None:
        self._function = function or _at_once
        self._wait = wait

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Whatever the function makes of it."""
        return await self._function(request, call)

    def wait_seconds(self, pixel_steps: int = 0) -> float:  # noqa: ARG002 - the protocol's signature
        """The set time."""
        return self._wait


def flat(request: ImageRequest) -> Generation:
    """Flat colours for ``request``: the seed's three low bytes are red, green and blue."""
    width, height = request.finished_size
    pictures = tuple(
        Picture(width, height, "RGB", (seed & 0xFFFFFF).to_bytes(3, "little") * (width * height)) for seed in request.seeds
    )
    evaluations = request.sampling.steps * len(request.seeds) * (2 if request.sampling.guided else 1)
    stats = RunStats(0.0, 0.0, 0.0, 0.0, evaluations, 1.0)
    return Generation(request.model, pictures, request.seeds, stats)


async def _at_once(request: ImageRequest, _call: Call) -> Generation:
    return flat(request)
