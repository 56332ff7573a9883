"""Edges and lines that need no weights. Each takes pixels and its options, and gives white on black."""

import cv2
import numpy as np

from pipelines.contract.preprocessing import Options
from pipelines.preprocessing.pixels import Pixels, eight_bits, grey

_SOBEL_GAIN, _SCHARR_GAIN = 4.0, 16.0
"""What the kernels make of a step of 1."""
_FAINTEST = 16.0
"""Lines are not amplified as if they were fainter than this."""


def canny(pixels: Pixels, options: Options) -> Pixels:
    """Edges by hysteresis between two thresholds (Canny 1986), of the channel that changes most."""
    found: Pixels = cv2.Canny(np.ascontiguousarray(pixels), options["low_threshold"], options["high_threshold"])
    return found


def sobel(pixels: Pixels, _options: Options) -> Pixels:
    """Length of the gradient by Sobel's 3x3 kernel."""
    values = grey(pixels)
    across, down = (cv2.Sobel(values, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    return eight_bits(np.hypot(across, down) / _SOBEL_GAIN)


def scharr(pixels: Pixels, _options: Options) -> Pixels:
    """Length of the gradient by Scharr's kernel, which favours no direction."""
    values = grey(pixels)
    across, down = (cv2.Scharr(values, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    return eight_bits(np.hypot(across, down) / _SCHARR_GAIN)


def outlines(pixels: Pixels, options: Options) -> Pixels:
    """The border of what is lighter than ``threshold``, ``width`` pixels thick."""
    light = (grey(pixels) > options["threshold"]).astype(np.uint8) * 255
    side = int(options["width"]) + 1
    found: Pixels = cv2.morphologyEx(light, cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8))
    return found


def lineart(pixels: Pixels, options: Options) -> Pixels:
    """How much darker each pixel is than its surroundings, evened out over the picture."""
    values = pixels.astype(np.float32)
    darker = (cv2.GaussianBlur(values, (0, 0), options["sigma"]) - values).min(axis=2).clip(0, 255)
    lines = darker[darker > options["intensity_threshold"]]
    strength = max(_FAINTEST, float(np.median(lines))) if lines.size else _FAINTEST
    found: Pixels = (darker / strength * 127).clip(0, 255).astype(np.uint8)
    return found


def xdog(pixels: Pixels, options: Options) -> Pixels:
    """Strokes where a fine blur is darker than a coarse one (Winnemoeller 2012)."""
    values = pixels.astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(values, (0, 0), sigma) for sigma in (0.5, 5.0))
    darker = (coarse - fine).min(axis=2).clip(0, 255)
    found: Pixels = (2 * darker > options["threshold"]).astype(np.uint8) * np.uint8(255)
    return found
