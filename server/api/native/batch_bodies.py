"""What is sent as a batch, line by line, and what comes back."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from server.api.errors import LineProblem
from server.api.native.bodies import GeneratedImage, NativeError
from server.domain.batch import BatchState, LineState


class BatchLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file. ``method`` and ``url`` may be there, as in files made for OpenAI's Batch API."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=256, description="Your own name for it, once in the file.")]
    body: Annotated[dict[str, Any], Meta(description="As for POST /api/generate.")]
    method: Literal["POST"] = "POST"
    url: Literal["/api/generate"] = "/api/generate"


class BatchHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes for the whole file: its first line, if that has no ``custom_id``, or fields beside the file in a form."""

    defaults: Annotated[dict[str, Any], Meta(description="Options of every line that does not say otherwise.")] = {}
    webhook: Annotated[str | None, Meta(description="Told when the batch is over, by Standard Webhooks.")] = None


class BatchCounts(msgspec.Struct, frozen=True):
    """How many lines are where."""

    waiting: int
    """No jobs yet."""
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int


class BatchView(msgspec.Struct, frozen=True):
    """One batch as it stands."""

    id: str
    state: Annotated[BatchState, Meta(description="running, cancelling, and at last finished or cancelled.")]
    created: float
    """Times are Unix seconds."""
    finished: float | None
    lines: int
    images: int
    counts: BatchCounts
    progress: float
    """Share of the lines that are over, 0 to 1."""
    estimated_end: float | None
    """When it may be over, by the pace of the workers, if nothing more urgent comes."""
    webhook: str | None
    results: str
    """Where the results are."""


class BatchList(msgspec.Struct, frozen=True):
    """One page of batches, the newest first."""

    data: list[BatchView]
    next: str | None
    """`cursor` of the page after this one; null on the last."""


class BatchResult(msgspec.Struct, frozen=True):
    """One line of the results."""

    line: int
    """Its number in the file."""
    custom_id: str
    job: str | None
    """Null for a line that never was a job."""
    state: LineState
    images: list[GeneratedImage]
    error: NativeError | None


class BatchError(NativeError, frozen=True):
    """Why nothing of a batch was accepted."""

    lines: list[LineProblem] | msgspec.UnsetType = msgspec.UNSET
    """The first lines that are wrong, if lines are."""


class BatchErrorBody(msgspec.Struct, frozen=True):
    """The answer to a batch that is refused."""

    error: BatchError
