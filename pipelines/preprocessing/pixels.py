"""Pictures as arrays, at the size to work at."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.contract.picture import Picture
from pipelines.contract.preprocessing import scaled

Pixels = NDArray[np.uint8]
"""Height x width x 3 (red, green, blue), or height x width, 0..255."""

MULTIPLE = 64
"""Sides of what goes through a network, as controlnet-aux has them."""


def read(picture: Picture, resolution: int) -> Pixels:
    """``picture`` over white in three channels, its shorter side ``resolution`` pixels long."""
    given = np.frombuffer(picture.data, dtype=np.uint8).reshape(picture.height, picture.width, picture.channels)
    if picture.mode == "L":
        given = np.repeat(given, 3, axis=2)
    elif picture.mode == "RGBA":
        opacity = given[..., 3:].astype(np.float32) / 255
        given = np.rint(given[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return resized(given, *scaled(picture.width, picture.height, resolution))


def written(pixels: Any, width: int, height: int) -> Picture:
    """The result as a picture in mode RGB."""
    if pixels.ndim == 2:  # noqa: PLR2004 - a grey picture has two axes
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return Picture(width, height, "RGB", np.ascontiguousarray(pixels, dtype=np.uint8).tobytes())


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """``pixels`` at another size, by area where it becomes smaller and Lanczos where it becomes larger."""
    before = pixels.shape[0] * pixels.shape[1]
    if pixels.shape[:2] == (height, width):
        return pixels
    how = cv2.INTER_LANCZOS4 if width * height > before else cv2.INTER_AREA
    result: Pixels = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=how)
    return result


def padded(pixels: Pixels) -> Pixels:
    """``pixels`` with their lower and right edges repeated up to a multiple of `MULTIPLE`."""
    below, beside = -pixels.shape[0] % MULTIPLE, -pixels.shape[1] % MULTIPLE
    return np.pad(pixels, ((0, below), (0, beside), (0, 0)), mode="edge")


def grey(pixels: Pixels) -> Pixels:
    """Lightness (ITU-R BT.601 luma)."""
    result: Pixels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return result


def eight_bits(values: Any) -> Pixels:
    """Numbers as pixels: rounded, cut off at 0 and 255."""
    result: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return result
