"""The demo checkpoint's world in pixels: scenes drawn with smooth edges, placed as their numbers say."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from scripts.demo.scenes import COLOURS, RADII, Scene, Thing, loose_caption, training_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

Point = tuple[float, float]
Mask = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]

PAIR_RADIUS = 27.0
PAIR_PLACES = (0.25, 0.75)
GRID = 8
OVERSAMPLE = 4
SIDE = 128
HOLE = 0.52  # radius of a ring's hole, of its own


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing with the centre and radius it is drawn at."""

    thing: Thing
    x: float
    y: float
    radius: float


def polar(count: int, radii: Sequence[float], start: float = -90.0) -> list[Point]:
    """Return corners at equal angles, the radii taken in turn."""
    angles = [math.radians(start + 360 * i / count) for i in range(count)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


def heart_outline() -> list[Point]:
    """Return the heart curve, scaled to a radius of about one."""
    points: list[Point] = []
    for i in range(64):
        t = 2 * math.pi * i / 64
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16, -(y + 2.5) / 15.5))
    return points


OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
    "triangle": [(0.0, -0.98), (1.0, 0.82), (-1.0, 0.82)],
    "star": polar(10, (1.08, 0.46)),
    "heart": heart_outline(),
    "diamond": [(0.0, -1.06), (0.74, 0.0), (0.0, 1.06), (-0.74, 0.0)],
    "cross": [
        (-0.34, -1.0), (0.34, -1.0), (0.34, -0.34), (1.0, -0.34), (1.0, 0.34), (0.34, 0.34),
        (0.34, 1.0), (-0.34, 1.0), (-0.34, 0.34), (-1.0, 0.34), (-1.0, -0.34), (-0.34, -0.34),
    ],
}  # fmt: skip


def draw_mask(shape: str, centre: Point, radius: float, size: tuple[int, int]) -> Mask:
    """Draw one shape with smooth edges: 1 inside, 0 outside."""
    k = OVERSAMPLE
    (x, y), (width, height) = centre, size
    image = Image.new("L", (width * k, height * k), 0)
    pen = ImageDraw.Draw(image)

    def disc(share: float, fill: int) -> None:
        r = share * radius
        pen.ellipse([(x - r) * k, (y - r) * k, (x + r) * k, (y + r) * k], fill=fill)

    if shape in OUTLINES:
        pen.polygon([((x + px * radius) * k, (y + py * radius) * k) for px, py in OUTLINES[shape]], fill=255)
    else:
        disc(1.0, 255)
        if shape == "ring":
            disc(HOLE, 0)
    return np.asarray(image.reduce(k), dtype=np.float32) / 255


def places(scene: Scene, width: int, height: int) -> list[Point]:
    """Return where each thing of a scene belongs: the middle, or either side of it."""
    if scene.relation is None:
        return [(width / 2, height / 2)]
    if scene.relation == "left of":
        return [(width * share, height / 2) for share in PAIR_PLACES]
    return [(width / 2, height * share) for share in PAIR_PLACES]


def place(scene: Scene, rng: random.Random, width: int = SIDE, height: int = SIDE) -> list[Placed]:
    """Give each thing a centre and a radius, with a little play so that seeds differ."""
    unit = min(width, height) / SIDE
    placed: list[Placed] = []
    for thing, (x, y) in zip(scene.things, places(scene, width, height), strict=True):
        radius = PAIR_RADIUS if scene.relation else rng.choice(RADII[thing.size or rng.choice(tuple(RADII))])
        dx = 0 if scene.relation == "left of" else rng.choice((-GRID, 0, GRID))
        dy = 0 if scene.relation == "above" else rng.choice((-GRID, 0, GRID))
        placed.append(Placed(thing, x + dx, y + dy, radius * unit))
    return placed


def paint(scene: Scene, placed: Sequence[Placed], width: int = SIDE, height: int = SIDE) -> tuple[Pixels, Mask]:
    """Paint a scene; also return where its things are."""
    canvas = np.empty((height, width, 3), dtype=np.float32)
    canvas[:] = COLOURS[scene.ground]
    covered = np.zeros((height, width), dtype=np.float32)
    for item in placed:
        mask = draw_mask(item.thing.shape, (item.x, item.y), item.radius, (width, height))
        canvas += mask[..., None] * (np.asarray(COLOURS[item.thing.colour], dtype=np.float32) - canvas)
        covered = np.maximum(covered, mask)
    return canvas.round().astype(np.uint8), covered


def training_example(seed: int, index: int, width: int = SIDE, height: int = SIDE) -> tuple[str, Pixels, Mask]:
    """Return caption, picture and mask number `index`."""
    scene = training_scene(seed, index)
    rng = random.Random(f"paint:{seed}:{index}")
    pixels, mask = paint(scene, place(scene, rng, width, height), width, height)
    return loose_caption(scene, rng), pixels, mask


def painting(scene: Scene, number: int, width: int = SIDE, height: int = SIDE) -> Pixels:
    """Paint a scene as training would, the given number choosing where exactly things lie."""
    return paint(scene, place(scene, random.Random(f"painting:{number}"), width, height), width, height)[0]
