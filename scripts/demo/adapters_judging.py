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
BLURRED = 2.0  # pixels at the border of a thing that the decoder mixes with the ground
RIM = OUTSIDE + INSIDE  # an outline is this wide
DEEP = RIM + 3  # from here on it is surely over, however blurred
MOSTLY_HOLLOW = 0.5
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


def hollow_share(pixels: Pixels) -> float:
    """Return the share of what lies deep inside of things that has another colour than their rims; 0 where nothing is that deep.

    A thing is what is not ground, with all that it encloses.
    """
    ends = (slice(None, CORNER), slice(-CORNER, None))
    corners = np.concatenate([pixels[rows, columns].reshape(-1, 3) for rows in ends for columns in ends])
    distance = np.linalg.norm(pixels.astype(np.float32) - np.median(corners, axis=0), axis=-1)
    borders, _ = cv2.findContours((distance > APART).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    inside, other = 0, 0
    for border in borders:
        whole = cv2.drawContours(np.zeros(pixels.shape[:2], dtype=np.uint8), [border], -1, 1, cv2.FILLED)
        depth = cv2.distanceTransform(np.pad(whole, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        rim, core = (depth > BLURRED) & (depth <= RIM), depth > DEEP
        if core.any():
            colour = np.median(pixels[rim], axis=0)
            inside += int(core.sum())
            other += int((np.linalg.norm(pixels[core].astype(np.float32) - colour, axis=-1) > APART).sum())
    return other / inside if inside else 0.0


def is_outlined(pixels: Pixels) -> bool:
    """Say whether things are drawn as lines around something else; of plain pictures hardly the widest rings are."""
    return hollow_share(pixels) >= MOSTLY_HOLLOW


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
