"""Changes of tones and colours that need no weights. Each takes pixels and its options."""

import cv2
import numpy as np

from pipelines.contract.preprocessing import Options
from pipelines.preprocessing import pixels as pictures
from pipelines.preprocessing.pixels import Pixels, eight_bits, resized

_DISK = 256
"""Pixels between the knots of the random flow that stirs a picture."""


def grey(pixels: Pixels, _options: Options) -> Pixels:
    """Lightness alone."""
    return pictures.grey(pixels)


def invert(pixels: Pixels, _options: Options) -> Pixels:
    """The negative."""
    return 255 - pixels


def threshold(pixels: Pixels, options: Options) -> Pixels:
    """White where it is lighter than ``threshold``."""
    return (pictures.grey(pixels) > options["threshold"]).astype(np.uint8) * np.uint8(255)


def blur(pixels: Pixels, options: Options) -> Pixels:
    """Gaussian blur."""
    found: Pixels = cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), options["sigma"])
    return found


def luminance(pixels: Pixels, options: Options) -> Pixels:
    """Lightness as people perceive it (L of CIELAB)."""
    return _gamma(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2LAB)[..., 0], options["gamma"])


def intensity(pixels: Pixels, options: Options) -> Pixels:
    """The largest of the three channels (V of HSV)."""
    return _gamma(pixels.max(axis=2), options["gamma"])


def resample(pixels: Pixels, options: Options) -> Pixels:
    """Made ``factor`` times smaller and enlarged again."""
    height, width = pixels.shape[:2]
    small = resized(pixels, max(1, round(width / options["factor"])), max(1, round(height / options["factor"])))
    return resized(small, width, height)


def grid(pixels: Pixels, options: Options) -> Pixels:
    """Squares of about ``cell`` pixels, each in its mean colour."""
    height, width = pixels.shape[:2]
    columns, rows = (max(1, round(side / options["cell"])) for side in (width, height))
    small = cv2.resize(np.ascontiguousarray(pixels), (columns, rows), interpolation=cv2.INTER_AREA)
    found: Pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return found


def shuffle(pixels: Pixels, options: Options) -> Pixels:
    """Each pixel comes from somewhere else, neighbours from near each other: content shuffle of ControlNet 1.1.

    controlnet-aux has it too, but draws from numpy's global generator, which belongs to nobody.
    """
    height, width = pixels.shape[:2]
    generator = np.random.default_rng(int(options["seed"]))
    across, down = (_disk(generator, height, width) * (side - 1) for side in (width, height))
    found: Pixels = cv2.remap(np.ascontiguousarray(pixels), across, down, cv2.INTER_LINEAR)
    return found


def _disk(generator: np.random.Generator, height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Smooth noise from 0 to 1."""
    knots = generator.uniform(size=(height // _DISK + 2, width // _DISK + 2)).astype(np.float32)
    large = cv2.resize(knots, (width + 2 * _DISK, height + 2 * _DISK), interpolation=cv2.INTER_CUBIC)
    noise = large[_DISK : _DISK + height, _DISK : _DISK + width]
    noise = noise - noise.min()
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.ascontiguousarray(noise / max(float(noise.max()), 1e-6))
    return found


def _gamma(values: Pixels, gamma: float) -> Pixels:
    return eight_bits((values.astype(np.float32) / 255) ** gamma * 255)
