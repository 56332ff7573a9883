"""Measures whether a picture keeps its prompt's promises: the ground, each colour in its place, each shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from scripts.demo.painting import Mask, Pixels, draw_mask, places
from scripts.demo.scenes import COLOURS, SHAPES, Scene

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which of the three promises a picture keeps."""

    ground: bool
    colour: bool
    shape: bool


CORNER = 8
WINDOW = 112  # picture pixels around a place that are compared with templates
STRIDE = 2  # templates are compared at half resolution
SPECK = 40  # fewer pixels than this are not a thing


def nearest_colours(pixels: Pixels) -> np.ndarray[tuple[int, int], np.dtype[np.intp]]:
    """Label every pixel with the index of the palette colour nearest to it."""
    palette = np.asarray(list(COLOURS.values()), dtype=np.float32)
    return ((pixels[:, :, None, :].astype(np.float32) - palette) ** 2).sum(-1).argmin(-1)


def ground_is_right(scene: Scene, pixels: Pixels) -> bool:
    """Say whether the mean colour of each corner is nearest to the named ground."""
    ends = (slice(None, CORNER), slice(-CORNER, None))
    corners = np.stack([pixels[rows, columns].reshape(-1, 3).mean(0) for rows in ends for columns in ends])
    labels = nearest_colours(corners[None].round().astype(np.uint8))
    return bool((labels == list(COLOURS).index(scene.ground)).all())


def own_part(scene: Scene, which: int, width: int, height: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Mark the part of the picture that belongs to a thing: all of it, or its own half."""
    part = np.ones((height, width), dtype=bool)
    if scene.relation == "left of":
        part[:, slice(width // 2, None) if which == 0 else slice(None, width // 2)] = False
    elif scene.relation == "above":
        part[slice(height // 2, None) if which == 0 else slice(None, height // 2), :] = False
    return part


def colour_is_right(scene: Scene, which: int, pixels: Pixels) -> bool:
    """Say whether the named colour is what most of the non-ground pixels at the named place have."""
    height, width = pixels.shape[:2]
    names = list(COLOURS)
    x, y = places(scene, width, height)[which]
    rows, columns = np.ogrid[:height, :width]
    near = (abs(rows - y) < 30) & (abs(columns - x) < 30) & own_part(scene, which, width, height)
    counts = np.bincount(nearest_colours(pixels)[near], minlength=len(names))
    counts[names.index(scene.ground)] = 0
    return bool(counts.argmax() == names.index(scene.things[which].colour) and counts.max() >= SPECK)


def thing_mask(scene: Scene, which: int, pixels: Pixels) -> Mask:
    """Return the pixels nearer to the thing's colour than to the ground's, in a window around its place."""
    height, width = pixels.shape[:2]
    ground, own = (np.asarray(COLOURS[c], dtype=np.float32) for c in (scene.ground, scene.things[which].colour))
    along = ((pixels - ground) @ (own - ground)) / ((own - ground) ** 2).sum()
    mask = ((along > 0.5) & own_part(scene, which, width, height)).astype(np.float32)
    x, y = (round(v) for v in places(scene, width, height)[which])
    half = WINDOW // 2
    padded = np.pad(mask, half)
    return padded[y : y + WINDOW : STRIDE, x : x + WINDOW : STRIDE]


@cache
def templates() -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    """Return every shape at every radius and offset as flat masks, with the shapes' names."""
    names: list[str] = []
    rows: list[Mask] = []
    half = WINDOW / 2
    for shape in SHAPES:
        for radius in range(12, 50, 2):
            # One drawing per radius, moved by whole cells: cheaper than drawing each offset.
            drawn = draw_mask(shape, (half, half), radius, (WINDOW, WINDOW))[::STRIDE, ::STRIDE] > 0.5
            for dy in range(-5, 6):
                for dx in range(-5, 6):
                    names.append(shape)
                    rows.append(np.roll(drawn, (dy, dx), axis=(0, 1)).astype(np.float32).ravel())
    return names, np.stack(rows)


def match_shapes(masks: Sequence[Mask]) -> list[tuple[str, float]]:
    """Name the shape whose best template overlaps each mask most, with that overlap (intersection over union)."""
    names, table = templates()
    flat = np.stack([mask.ravel() for mask in masks])
    together = flat @ table.T
    overlap = together / (flat.sum(1)[:, None] + table.sum(1)[None] - together)
    best = overlap.argmax(1)
    return [(names[b], float(overlap[i, b])) for i, b in enumerate(best)]


def judge(scenes: Sequence[Scene], pictures: Sequence[Pixels]) -> list[Verdict]:
    """Measure pictures against their scenes; every thing of a scene has to be right."""
    masks = [thing_mask(s, i, p) for s, p in zip(scenes, pictures, strict=True) for i in range(len(s.things))]
    matched = iter(match_shapes(masks))
    verdicts: list[Verdict] = []
    for scene, pixels in zip(scenes, pictures, strict=True):
        shapes = [next(matched)[0] == thing.shape for thing in scene.things]
        colours = [colour_is_right(scene, which, pixels) for which in range(len(scene.things))]
        verdicts.append(Verdict(ground_is_right(scene, pixels), all(colours), all(shapes)))
    return verdicts
