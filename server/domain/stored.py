"""What is known of stored results beside their bytes: assets, which have names, and the blobs that they share."""

from enum import StrEnum

import msgspec

from server.domain.asset import Asset, Format


class BlobState(StrEnum):
    """A blob's row comes before its file and goes after it, so that no file is ever unknown."""

    WRITING = "writing"
    """Its file is not there yet, or not whole."""
    READY = "ready"
    DOOMED = "doomed"
    """No asset has it; its file is to be deleted, then its row. Nothing leads back from here."""


class Blob(msgspec.Struct, frozen=True):
    """Bytes of one tenant, stored once."""

    id: str
    tenant: str
    digest: str
    """SHA-256, hexadecimal."""
    path: str
    """Never used twice, not even for the same bytes."""
    bytes: int
    created: float
    """Unix time."""


class New(msgspec.Struct, frozen=True):
    """What is told of a file that is to be stored."""

    format: Format
    width: int
    height: int
    seed: int
    tenant: str
    job_id: str
    metadata: bytes = b"{}"
    """How it was made: a JSON object."""
    awaited: bool = False
    """Somebody waits for its bytes, or for a link: should this process be killed at once, it may be forgotten."""


class Stored(msgspec.Struct, frozen=True):
    """One asset with all that is known of it."""

    asset: Asset
    tenant: str
    digest: str
    """SHA-256 of its bytes, hexadecimal."""
    job_id: str
    created: float
    """Unix time."""
    expires: float
    """It is gone from then on."""
    metadata: bytes
    """How it was made: a JSON object."""


class Holding(msgspec.Struct, frozen=True):
    """What one tenant has stored."""

    tenant: str
    assets: int
    bytes: int
    """Equal ones counted once."""
