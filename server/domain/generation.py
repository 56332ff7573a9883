"""What a provider returns: pixels and how they came about."""

import msgspec

from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture


class Generation(msgspec.Struct, frozen=True):
    """The finished pictures of one request, in the order of its seeds."""

    model: str
    pictures: tuple[Picture, ...]
    seeds: tuple[int, ...]
    stats: RunStats
