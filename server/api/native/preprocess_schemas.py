"""Bodies of /api/preprocess and /api/preprocessors."""

from typing import Literal

import msgspec

from pipelines.contract.preprocessing import Kind, Makes


class PreprocessBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /api/preprocess as JSON."""

    image: str
    """A ``data:`` URL of a PNG, JPEG, WebP or GIF, or the id of an asset; nothing is fetched."""
    preprocessor: str
    """Any name that GET /api/preprocessors lists."""
    options: dict[str, int | float] = {}
    """By the names of the preprocessor's parameters."""


class PreprocessForm(msgspec.Struct, frozen=True):
    """The fields of POST /api/preprocess as a form, beside the file ``image``."""

    preprocessor: str
    options: str = "{}"
    """The same object, as JSON."""


class PreprocessAnswer(msgspec.Struct, frozen=True):
    """The control image, for who asks for JSON."""

    preprocessor: str
    """Its id."""
    width: int
    height: int
    image: str
    """A ``data:`` URL of a PNG."""


class ParameterAnswer(msgspec.Struct, frozen=True):
    """One thing that a preprocessor can be told."""

    name: str
    kind: Kind
    default: float
    least: float
    most: float
    meaning: str


class WeightsAnswer(msgspec.Struct, frozen=True):
    """What a preprocessor's networks are read from."""

    repo: str
    files: tuple[str, ...]
    source: str | None
    """Where models.yaml says they are; null if it does not."""


class PreprocessorAnswer(msgspec.Struct, frozen=True):
    """One preprocessor."""

    id: str
    aliases: tuple[str, ...]
    makes: Makes
    summary: str
    parameters: tuple[ParameterAnswer, ...]
    weights: WeightsAnswer | None
    """null: it needs none."""
    ready: bool
    """Whether models.yaml has all it needs."""
    missing: str | None
    """What to do so that it works; null if it is ready."""


class PreprocessorList(msgspec.Struct, frozen=True):
    """GET /api/preprocessors."""

    data: list[PreprocessorAnswer]
    object: Literal["list"] = "list"
