"""A finished, encoded, stored image, and how a caller wants it."""

from enum import StrEnum

import msgspec

from pipelines.contract.errors import InvalidRequest


class Format(StrEnum):
    """File formats of results; the value is the file's suffix."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"

    @property
    def media_type(self) -> str:
        """The Content-Type."""
        return f"image/{self.value}"


class Told(StrEnum):
    """What the file itself tells of how it was made."""

    ALL = "all"
    INFOTEXT = "infotext"
    """The text that Stable Diffusion tools read."""
    REQUEST = "request"
    """The whole request as JSON, without its pictures."""
    NONE = "none"

    @property
    def infotext(self) -> bool:
        """Whether that is in it."""
        return self in (Told.ALL, Told.INFOTEXT)

    @property
    def request(self) -> bool:
        """Whether that is in it."""
        return self in (Told.ALL, Told.REQUEST)


class Delivery(msgspec.Struct, frozen=True):
    """How results are to be encoded."""

    format: Format = Format.PNG
    quality: int | None = None
    """0-100 for JPEG, WebP and AVIF; None for the format's own default (lossless WebP at 100)."""
    width: int | None = None
    """Pixels to scale the finished picture down to; None: as many as ``height`` leaves it, or its own."""
    height: int | None = None
    metadata: Told | None = None
    """None: what the server's settings say."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the file of a finished ``width`` x ``height`` picture; a single side keeps its shape.

        Raises `InvalidRequest` if it would have to grow, or vanish.
        """
        if any(side is not None and side < 1 for side in (self.width, self.height)):
            msg = "'output.size' must be at least one pixel wide and high."
            raise InvalidRequest(msg, param="output.size")
        wanted = (
            self.width or max(1, round(width * (self.height or height) / height)),
            self.height or max(1, round(height * (self.width or width) / width)),
        )
        if wanted[0] > width or wanted[1] > height:
            msg = (
                f"'output.size' scales a picture down only: {wanted[0]}x{wanted[1]} was asked for, and it has {width}x{height}. "
                "Upscale it first, or ask for less."
            )
            raise InvalidRequest(msg, param="output.size")
        return wanted


class Asset(msgspec.Struct, frozen=True):
    """One stored image; ``name`` is its unguessable name in the store."""

    name: str
    format: Format
    width: int
    height: int
    seed: int
    size: int
    """Bytes of the file."""
    path: str = ""
    """Where its bytes lie in the store; other assets with the same bytes may share them."""
