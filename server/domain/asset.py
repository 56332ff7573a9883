"""A finished, encoded, stored image, and how a caller wants it."""

from enum import StrEnum

import msgspec


class Format(StrEnum):
    """File formats of results; the value is the file's suffix."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """The Content-Type."""
        return f"image/{self.value}"


class Delivery(msgspec.Struct, frozen=True):
    """How results are to be encoded."""

    format: Format = Format.PNG
    quality: int | None = None
    """0-100 for JPEG and WebP; None for the format's own default (lossless WebP at 100)."""
    size: tuple[int, int] | None = None
    """Width and height to scale the finished picture down to; None leaves it as it was made."""


class Asset(msgspec.Struct, frozen=True):
    """One stored image; ``name`` is its unguessable name in the store."""

    name: str
    format: Format
    width: int
    height: int
    seed: int
    size: int
    """Bytes of the file."""
