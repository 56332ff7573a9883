"""What a provider returns: pixels, how they came about, by which road, and what they cost."""

from typing import Literal

import msgspec
from msgspec.structs import replace

from pipelines.contract.messages import RunStats
from pipelines.contract.picture import Picture
from server.domain.verdict import Verdict

LOCAL = "local"
"""The road to our own workers; every other road is named by its entry under ``upstreams:`` in models.yaml."""

AUTO = "auto"
"""The road that the router chooses."""

CACHE = "cache"
"""No road, but what is charged for pictures that were there is written down as if it were one."""

WORDS_MISSING = "words_missing"
"""The code of an attempt whose picture lacks the words that were asked for."""


class Attempt(msgspec.Struct, frozen=True):
    """A road that was tried before, or could not be."""

    road: str
    code: str
    """Of the error, as in the one error tree."""
    message: str


class Route(msgspec.Struct, frozen=True):
    """Which road a request took, and why."""

    road: str = LOCAL
    model: str = ""
    """What made the pictures there; empty for the request's own model."""
    reasons: tuple[str, ...] = ()
    """Short phrases for people."""
    tried: tuple[Attempt, ...] = ()
    request_ids: tuple[str, ...] = ()
    """The upstream's own, for its support."""


class Usage(msgspec.Struct, frozen=True):
    """What a request cost."""

    usd: float = 0.0
    gpu_seconds: float = 0.0
    input_text_tokens: int = 0
    input_image_tokens: int = 0
    output_tokens: int = 0


class Encoded(msgspec.Struct, frozen=True):
    """A picture in the file that an upstream made of it: its pixels are decoded when somebody needs them.

    Nobody does where the delivery asks for that very format, size and quality; then what the upstream signed into it is kept.
    """

    width: int
    height: int
    mode: Literal["RGB", "RGBA"]
    """What its pixels are to be."""
    file: bytes
    scaled: Picture | None = None
    """The picture, where the file shows it in another size or with more around it."""


class Generation(msgspec.Struct, frozen=True):
    """The finished pictures of one request, in the order of its seeds."""

    model: str
    pictures: tuple[Picture | Encoded, ...]
    seeds: tuple[int, ...]
    stats: RunStats
    route: Route = Route()
    usage: Usage = Usage()
    verdicts: tuple[Verdict, ...] = ()
    """What moderation said beyond letting it pass."""
    device: str = ""
    """LOCAL: the worker's device, such as ``cuda:0``."""

    def with_picture(self, index: int, picture: Picture) -> "Generation":
        """The same with another picture in one place."""
        return replace(self, pictures=(*self.pictures[:index], picture, *self.pictures[index + 1 :]))
