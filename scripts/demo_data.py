"""The demo checkpoint's world: coloured shapes on coloured grounds, drawn, described and measured.

Everything is a function of a seed and an index, so the same picture and caption come back on any machine. The training program
draws from `training_scene`, the tests from `heldout_scenes`; `is_heldout` keeps the two apart.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Relation = Literal["left of", "above"]
Size = Literal["small", "medium", "large"]
Point = tuple[float, float]
Mask = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Pixels = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "orange": (247, 140, 28),
    "yellow": (250, 222, 52),
    "green": (46, 160, 67),
    "cyan": (60, 210, 220),
    "blue": (38, 78, 212),
    "purple": (128, 50, 176),
    "pink": (248, 150, 200),
    "brown": (118, 68, 32),
    "white": (250, 250, 250),
    "gray": (134, 134, 134),
    "black": (18, 18, 18),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
RELATIONS: tuple[Relation, ...] = ("left of", "above")
# Radii in pixels of a picture whose shorter side is 128, far enough apart that a named size is visible. Things lie on a grid of
# eight pixels, which is one latent pixel: the same shape elsewhere is the same latents moved, so a short training suffices.
RADII: dict[Size, tuple[float, ...]] = {"small": (18.0,), "medium": (28.0,), "large": (42.0,)}
PAIR_RADIUS = 22.0
PAIR_PLACES = (0.25, 0.75)
GRID = 8
OVERSAMPLE = 4
SIDE = 128

# Words that users put around a description. Training mixes some in, so that they change nothing instead of something at random.
FILLERS = (
    "a picture of", "a photo of", "a drawing of", "an image of", "an illustration of", "draw", "please", "simple", "flat",
    "high quality", "best quality", "masterpiece", "detailed", "beautiful", "minimal", "icon", "vector art", "the", "with",
    "and", "no text", "blurry", "low quality", "bad", "ugly", "deformed", "watermark", "cat", "dog", "house", "person",
    "tree", "sky", "city", "portrait", "landscape", "style", "light", "dark", "of", "in the", "centre", "one",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape of one colour; `size` is None where the caption names none."""

    colour: str
    shape: str
    size: Size | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What a caption says: one thing, or two in a relation, on a ground."""

    ground: str
    things: tuple[Thing, ...]
    relation: Relation | None = None

    @property
    def key(self) -> str:
        """Name the combination without sizes: what is held out is held out at every size."""
        parts = [f"{thing.colour} {thing.shape}" for thing in self.things]
        return f"{self.relation or 'alone'}|{'|'.join(parts)}|{self.ground}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing with the centre and radius it is drawn at."""

    thing: Thing
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which of the three promises a picture keeps."""

    ground: bool
    colour: bool
    shape: bool


# --- words ------------------------------------------------------------------------------------------------------------


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene) -> str:
    """Describe a scene the way the README tells users to."""
    named = [with_article(f"{f'{t.size} ' if t.size else ''}{t.colour} {t.shape}") for t in scene.things]
    said = f" {scene.relation} ".join(named) if scene.relation else named[0]
    return f"{said} on {with_article(scene.ground)} background"


def loose_caption(scene: Scene, rng: random.Random) -> str:
    """Describe a scene, now and then the way users write: shorter, or with words that mean nothing here."""
    text = caption(scene)
    style = rng.random()
    if style < 0.86:
        return text
    if style < 0.90:
        short = text.removesuffix(" background").replace(" on a ", " on ").replace(" on an ", " on ")
        return short.removeprefix("an ").removeprefix("a ")
    if style < 0.97:
        before = rng.choice(FILLERS) + " " if rng.random() < 0.6 else ""
        after = ", " + ", ".join(rng.sample(FILLERS, rng.randint(1, 3))) if rng.random() < 0.6 else ""
        return f"{before}{text}{after}"
    if style < 0.98:
        noise = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randint(2, 9)))
        return f"{text} {noise}"
    return ", ".join(rng.sample(FILLERS, rng.randint(1, 6)))


# --- scenes -----------------------------------------------------------------------------------------------------------


def is_heldout(scene: Scene) -> bool:
    """Say whether a combination of colours, shapes, relation and ground is kept from training (one in twelve)."""
    return hashlib.blake2b(scene.key.encode(), digest_size=4).digest()[0] % 12 == 0


def random_scene(rng: random.Random, pair_share: float = 0.5) -> Scene:
    """Draw a scene; colours within it differ."""
    ground, first, second = rng.sample(sorted(COLOURS), 3)
    if rng.random() < pair_share:
        things = (Thing(first, rng.choice(SHAPES)), Thing(second, rng.choice(SHAPES)))
        return Scene(ground, things, rng.choice(RELATIONS))
    # Small shapes are the hard ones: a latent pixel is eight picture pixels wide.
    sizes: tuple[Size | None, ...] = ("small", "medium", "large", None)
    size = rng.choices(sizes, weights=(0.42, 0.2, 0.18, 0.2))[0]
    return Scene(ground, (Thing(first, rng.choice(SHAPES), size),))


def scene_stream(seed: str, accept: Callable[[Scene], bool], pair_share: float = 0.5) -> Scene:
    """Return the first scene of a seed's stream that is accepted."""
    rng = random.Random(seed)
    while not accept(scene := random_scene(rng, pair_share)):
        pass
    return scene


def training_scene(seed: int, index: int) -> Scene:
    """Return training scene number `index`; never a held-out combination."""
    return scene_stream(f"train:{seed}:{index}", lambda scene: not is_heldout(scene))


def heldout_scenes(count: int, seed: int = 0, pair_share: float = 0.4) -> list[Scene]:
    """Return distinct scenes whose combinations training never saw; the given share of them are pairs."""
    chosen: list[Scene] = []
    pairs = round(count * pair_share)
    for index in range(count):
        wants_pair = index < pairs
        chosen.append(
            scene_stream(
                f"heldout:{seed}:{index}",
                lambda s, pair=wants_pair: is_heldout(s) and (s.relation is not None) == pair and s not in chosen,
            )
        )
    return chosen


# --- pictures ---------------------------------------------------------------------------------------------------------


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
            disc(0.52, 0)
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


# --- measuring --------------------------------------------------------------------------------------------------------

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
