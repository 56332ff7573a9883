"""Pixels on their way between server and engine."""

from enum import StrEnum
from typing import Literal

import msgspec


class Resize(StrEnum):
    """How an input picture meets the requested size."""

    STRETCH = "stretch"
    """Scale each axis to fit; the aspect ratio may change (as diffusers does)."""
    CROP = "crop"
    """Scale to cover, cut the overhang evenly."""
    FILL = "fill"
    """Scale to fit inside, fill the rest with the picture's own stretched edges."""


class Picture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Decoded 8-bit pixels, row by row, channels interleaved: ``len(data) == width * height * channels``."""

    width: int
    height: int
    mode: Literal["L", "RGB", "RGBA"]
    data: bytes

    def __post_init__(self) -> None:
        """Refuse a size that does not match the data: nothing later checks again."""
        expected = self.width * self.height * self.channels
        if self.width < 1 or self.height < 1 or len(self.data) != expected:
            msg = f"{self.width}x{self.height} {self.mode} needs {expected} bytes, got {len(self.data)}"
            raise ValueError(msg)

    @property
    def channels(self) -> int:
        """Bytes per pixel."""
        return len(self.mode)
