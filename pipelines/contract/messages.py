"""What crosses the pipe between the server and a worker; every wire form is pinned by a golden file.

Commands go down, events come up. Both are msgpack maps tagged by ``type``, one per frame (`pipelines.worker.link`).
"""

from enum import StrEnum

import msgspec

from pipelines.contract.adapters import PreprocessorCard
from pipelines.contract.catalog import ModelCard, ModelFacts
from pipelines.contract.errors import ErrorReport
from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import Options
from pipelines.contract.request import ImageRequest

PROTOCOL = 4
"""Raised when a peer of the previous number would misread a message."""


class Phase(StrEnum):
    """The four kinds of work a device does, one at a time."""

    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"
    ENLARGE = "enlarge"
    """One bounded piece of making a picture larger: a filter, or one tile through a network."""


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    pass


class LoadModel(_Command, frozen=True, tag="load_model"):
    """Make ``card`` known and load it now, before what requests wait for; answered by `ModelLoaded` or `ModelFailed`.

    It takes the place of a card with the same id. Where they differ in more than defaults and limits, images already begun are
    finished with the old weights, then the model is loaded anew.
    """

    card: ModelCard


class KnowModel(_Command, frozen=True, tag="know_model"):
    """Make ``card`` known; it is loaded when a request needs it, and not answered before. Replaces as `LoadModel` does."""

    card: ModelCard


class UnloadModel(_Command, frozen=True, tag="unload_model"):
    """Let go of a model once the images it has begun are done, pinned or not; answered by `ModelUnloaded`.

    Also what of it is kept in RAM goes. The card stays known: requests that wait, or come later, bring the model back.
    """

    model: str


class Generate(_Command, frozen=True, tag="generate"):
    """Run ``request``; answered by `ImageDone` for each image and `Completed`, or by `Failed`."""

    request: ImageRequest


class Preprocess(_Command, frozen=True, tag="preprocess"):
    """Make a control image of ``picture``, beside the ticks; answered by `Preprocessed`, or by `Failed`."""

    id: str
    """Of this work; no request has the same."""
    preprocessor: str
    """An id of `pipelines.contract.preprocessing`."""
    card: PreprocessorCard | None
    """Its weights; None for one that needs none."""
    picture: Picture
    options: Options = {}


class Cancel(_Command, frozen=True, tag="cancel"):
    """Drop the request before the next tick, or the preprocessing; answered by `Failed` with code ``cancelled``.

    Unknown ids are ignored.
    """

    id: str


class Drain(_Command, frozen=True, tag="drain"):
    """Finish what is in flight, refuse the rest, then leave; answered by `Drained`."""


Command = LoadModel | KnowModel | UnloadModel | Generate | Preprocess | Cancel | Drain


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    pass


class Hello(_Event, frozen=True, tag="hello"):
    """The first frame of a worker: who it is and what it runs on."""

    protocol: int
    pid: int
    device: str
    """torch's name, such as ``cuda:0`` or ``cpu``."""
    device_name: str
    memory_bytes: int


class ModelLoading(_Event, frozen=True, tag="model_loading"):
    """Loading moves on: ``part`` is the component at hand, ``fraction`` of the whole is done."""

    model: str
    part: str
    fraction: float


class ModelLoaded(_Event, frozen=True, tag="model_loaded"):
    """The model is on the device; sent each time it gets there, with the seconds that it took this time."""

    model: str
    facts: ModelFacts


class ModelFailed(_Event, frozen=True, tag="model_failed"):
    """The model could not be loaded; the requests that waited for it have failed with the same error."""

    model: str
    error: ErrorReport


class ModelUnloaded(_Event, frozen=True, tag="model_unloaded"):
    """The model has left the device: it was asked to, or made room for another."""

    model: str
    evicted: bool
    """Whether it made room: then it stays known, and a request for it brings it back. False if it was told to go."""


class Memory(_Event, frozen=True, tag="memory"):
    """What the models take up, in bytes; sent after each change."""

    device_bytes: int
    """Weights on the device; what models share is counted once."""
    device_budget: int
    """What weights may take up there; 0 for no limit."""
    ram_bytes: int
    """Weights kept in RAM to come back sooner."""
    resident: tuple[str, ...]
    """Models on the device, the least recently used first."""


class AdapterMemory(_Event, frozen=True, tag="adapter_memory"):
    """What LoRAs, control networks and their like take up on the device, in bytes; sent after each change."""

    bytes: int
    budget: int
    """0 for no limit."""
    resident: tuple[str, ...]
    """Their names, the least recently used first."""


class Progress(_Event, frozen=True, tag="progress"):
    """Image ``image`` of the request has done ``step`` of ``steps`` steps."""

    id: str
    image: int
    step: int
    steps: int


class Preview(_Event, frozen=True, tag="preview"):
    """A small, cheap look at an unfinished image."""

    id: str
    image: int
    step: int
    picture: Picture


class ImageDone(_Event, frozen=True, tag="image_done"):
    """One finished image; after a worker's death an image may come a second time."""

    id: str
    image: int
    picture: Picture


class RunStats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a request's time went, in seconds, and what it cost, in network evaluations."""

    queue_seconds: float
    """From arrival at the worker to the first encode."""
    encode_seconds: float
    denoise_seconds: float
    """From the first tick to the last, pauses included."""
    decode_seconds: float
    evaluations: int
    company: float
    """Mean number of evaluations in the ticks it shared, its own included."""
    enlarge_seconds: float = 0.0
    """Making pictures larger, what redrawing them took left out."""
    device_seconds: float = 0.0
    """Its share of the device's time: of each batch that it was in, as much as it had of the batch."""


class Preparing(_Event, frozen=True, tag="preparing"):
    """A preprocessor's weights are on their way: ``part`` is at hand, ``fraction`` of it is done."""

    id: str
    part: str
    fraction: float


class Preprocessed(_Event, frozen=True, tag="preprocessed"):
    """The control image is made."""

    id: str
    picture: Picture
    seconds: float
    """What the work took, without waiting for its turn."""


class Completed(_Event, frozen=True, tag="completed"):
    """Every image of the request has been sent."""

    id: str
    stats: RunStats


class Failed(_Event, frozen=True, tag="failed"):
    """The request ends without (all of) its images, or the preprocessing without its control image."""

    id: str
    error: ErrorReport


class Tick(_Event, frozen=True, tag="tick"):
    """The device has done one batch: the raw material of the metrics, and the worker's sign of life."""

    model: str
    phase: Phase
    rows: int
    """Images in the batch."""
    evaluations: int
    """Network evaluations wanted (guided images count twice)."""
    padded: int
    """Evaluations added to reach a bucket."""
    seconds: float
    out_of_memory: bool
    waiting: int
    """Images in the engine that were not in this batch."""


class Drained(_Event, frozen=True, tag="drained"):
    """Nothing is in flight any more; the worker leaves."""


Event = (
    Hello
    | ModelLoading
    | ModelLoaded
    | ModelFailed
    | ModelUnloaded
    | Memory
    | AdapterMemory
    | Progress
    | Preview
    | ImageDone
    | Preparing
    | Preprocessed
    | Completed
    | Failed
    | Tick
    | Drained
)


def encode(message: Command | Event) -> bytes:
    """The message as msgpack."""
    return msgspec.msgpack.encode(message)


def decode_command(frame: bytes) -> Command:
    """The command in ``frame``; raises `msgspec.ValidationError` for anything else."""
    command: Command = msgspec.msgpack.decode(frame, type=Command)
    return command


def decode_event(frame: bytes) -> Event:
    """The event in ``frame``; raises `msgspec.ValidationError` for anything else."""
    event: Event = msgspec.msgpack.decode(frame, type=Event)
    return event
