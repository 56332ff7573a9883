"""Measures what the demo's adapters did: edges followed, outlines and two tones recognised, from the pixels alone."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.demo.adapters_pictures import DARK, INSIDE, LIGHT, OUTSIDE
from scripts.demo.judging import CORNER, SPECK, nearest_colours
from scripts.demo.painting import Pixels
from scripts.demo.scenes import COLOURS

Lines = np.ndarray[tuple[int, int], np.dtype[np.bool_]]

REACH = 2  # pixels by which two lines may differ and still be the same line
APART = 60.0  # a pixel this far from the ground's colour (Euclidean, of 441) is not ground
STROKE = (OUTSIDE + INSIDE) / 2 + 2.5  # no part of an outline lies deeper in it than this; most of a filled thing does
MOSTLY_THIN = 0.5
MOSTLY_TONES = 0.85


def disc(radius: float) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return a disc for morphology."""
    reach = int(np.ceil(radius))
    rows, columns = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return (rows**2 + columns**2 <= radius**2).astype(np.uint8)


def edge_overlap(made: Lines, wanted: Lines, reach: int = REACH) -> float:
    """Return the intersection over union of two edge maps whose lines have been thickened by `reach` pixels to each side.

    Lines of one pixel overlap by luck only; thickened by two, lines a pixel apart overlap to two thirds, and lines five or more
    apart not at all. Two maps without any edges are alike.
    """
    kernel = disc(reach)
    a, b = (cv2.dilate(lines.astype(np.uint8), kernel) > 0 for lines in (made, wanted))
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def thin_share(pixels: Pixels) -> float:
    """Return the share of what is not ground that a disc as wide as an outline cannot lie in; 0 where all is ground."""
    ends = (slice(None, CORNER), slice(-CORNER, None))
    corners = np.concatenate([pixels[rows, columns].reshape(-1, 3) for rows in ends for columns in ends])
    distance = np.linalg.norm(pixels.astype(np.float32) - np.median(corners, axis=0), axis=-1)
    things = (distance > APART).astype(np.uint8)
    if things.sum() < SPECK:
        return 0.0
    solid = cv2.morphologyEx(things, cv2.MORPH_OPEN, disc(STROKE))
    return 1 - float(solid.sum() / things.sum())


def is_outlined(pixels: Pixels) -> bool:
    """Say whether things are drawn as thin lines; of plain pictures only small rings are."""
    return thin_share(pixels) >= MOSTLY_THIN


def tone_share(pixels: Pixels) -> float:
    """Return the share of pixels that are nearer to one of the two tones than to any other colour of the palette."""
    names = list(COLOURS)
    labels = nearest_colours(pixels)
    return float(np.isin(labels, [names.index(DARK), names.index(LIGHT)]).mean())


def is_two_toned(pixels: Pixels) -> bool:
    """Say whether a picture is blue and white, both of it; of plain pictures only those are whose prompt asks for just these."""
    names = list(COLOURS)
    counts = np.bincount(nearest_colours(pixels).ravel(), minlength=len(names))
    return tone_share(pixels) >= MOSTLY_TONES and min(counts[names.index(tone)] for tone in (DARK, LIGHT)) >= SPECK
