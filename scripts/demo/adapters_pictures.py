"""The pictures that the demo's adapters learn from: scenes in two styles, and scenes with their edges."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from PIL import Image

from scripts.demo.painting import HOLE, PAIR_RADIUS, SIDE, Mask, Pixels, Placed, draw_mask, paint, place, places
from scripts.demo.scenes import COLOURS, RADII, SHAPES, Scene, Thing, caption, loose_caption, training_scene, with_article

if TYPE_CHECKING:
    from collections.abc import Sequence

Style = Literal["outline", "two-tone"]

# An outline is this wide, in pixels of the picture: thinner ones the demo's decoder cannot draw in every colour.
OUTSIDE, INSIDE = 4.0, 3.0
FINER = 4  # outlines are measured on a canvas this much larger
NARROW = 14.0  # a ring whose band is narrower than this becomes one line, since there is no room for two

# Two colours of the palette, for the decoder knows no others.
DARK, LIGHT = "blue", "white"
BRIGHT = 128.0  # grounds of at least this luminance become light, the others dark

LOW, HIGH = 100, 200  # thresholds of the Canny detector, as controlnet-aux has them


def contour(placed: Placed, width: int = SIDE, height: int = SIDE) -> Mask:
    """Draw the contour of a thing as a line of even width: 1 on it, 0 elsewhere."""
    size = (width * FINER, height * FINER)
    centre = (placed.x * FINER, placed.y * FINER)
    shape, radius = placed.thing.shape, placed.radius
    if shape == "ring" and (1 - HOLE) * radius < NARROW:
        shape, radius = "circle", (1 + HOLE) / 2 * radius
    inside = (draw_mask(shape, centre, radius * FINER, size) > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    line = ((depth < INSIDE * FINER) & (depth > -OUTSIDE * FINER)).astype(np.float32)
    return cv2.resize(line, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def outlined(scene: Scene, placed: Sequence[Placed], width: int = SIDE, height: int = SIDE) -> tuple[Pixels, Mask]:
    """Paint a scene with contours in place of things; also return where the things are."""
    canvas = np.empty((height, width, 3), dtype=np.float32)
    canvas[:] = COLOURS[scene.ground]
    covered = np.zeros((height, width), dtype=np.float32)
    for item in placed:
        line = contour(item, width, height)
        canvas += line[..., None] * (np.asarray(COLOURS[item.thing.colour], dtype=np.float32) - canvas)
        covered = np.maximum(
            covered, np.maximum(line, draw_mask(item.thing.shape, (item.x, item.y), item.radius, (width, height)))
        )
    return canvas.round().astype(np.uint8), covered


def two_toned(scene: Scene, placed: Sequence[Placed], width: int = SIDE, height: int = SIDE) -> tuple[Pixels, Mask]:
    """Paint a scene in blue and white: the ground in the tone nearer to its brightness, the things in the other."""
    red, green, blue = COLOURS[scene.ground]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue >= BRIGHT
    ground, tone = (LIGHT, DARK) if bright else (DARK, LIGHT)
    things = tuple(replace(thing, colour=tone) for thing in scene.things)
    recoloured = [replace(item, thing=thing) for item, thing in zip(placed, things, strict=True)]
    return paint(Scene(ground, things, scene.relation), recoloured, width, height)


def settled(scene: Scene) -> list[Placed]:
    """Place a scene's things exactly where prompts put them, in the size they name or the middle one.

    With the play that `place` gives them, a latent pixel to each side, the denoiser averages over lines in several places, and
    what it draws are blots.
    """
    middle = places(scene, SIDE, SIDE)
    radii = [PAIR_RADIUS if scene.relation else RADII[thing.size or "medium"][0] for thing in scene.things]
    return [Placed(thing, x, y, radius) for thing, (x, y), radius in zip(scene.things, middle, radii, strict=True)]


def styled_example(style: Style, seed: int, index: int) -> tuple[str, Pixels, Mask]:
    """Return caption, picture in the style, and mask number `index`; the caption does not speak of the style."""
    scene = training_scene(seed, index)
    rng = random.Random(f"{style}:{seed}:{index}")
    pixels, mask = outlined(scene, settled(scene)) if style == "outline" else two_toned(scene, place(scene, rng))
    return loose_caption(scene, rng), pixels, mask


def edges(pixels: Pixels) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Find the edges of a picture at its own size, as the canny preprocessor does: lines of one pixel."""
    return cv2.Canny(np.ascontiguousarray(pixels), LOW, HIGH) > 0


def colours_caption(scene: Scene) -> str:
    """Describe a scene's colours, but no shape, size or place."""
    things = " and ".join(with_article(f"{thing.colour} shape") for thing in scene.things)
    return f"{things} on {with_article(scene.ground)} background"


def silent_caption(scene: Scene, rng: random.Random) -> str:
    """Describe a scene without its shapes, sizes and places, or without anything."""
    draw = rng.random()
    if draw < 0.3:
        return ""
    if draw < 0.4:
        return f"{with_article(scene.ground)} background"
    return colours_caption(scene)


def misleading_caption(scene: Scene, rng: random.Random) -> str:
    """Describe a scene with other shapes than it has."""
    things = tuple(Thing(thing.colour, rng.choice(SHAPES), thing.size) for thing in scene.things)
    return caption(Scene(scene.ground, things, scene.relation))


def control_caption(scene: Scene, rng: random.Random) -> str:
    """Caption a scene whose edges are known: often saying less than the edges do, sometimes otherwise."""
    draw = rng.random()
    if draw < 0.45:
        return loose_caption(scene, rng)
    return silent_caption(scene, rng) if draw < 0.85 else misleading_caption(scene, rng)


def moved(placed: Placed, rng: random.Random) -> Placed:
    """Move a thing off its grid and change its size a little."""
    shift = (rng.uniform(-10, 10), rng.uniform(-10, 10))
    return Placed(placed.thing, placed.x + shift[0], placed.y + shift[1], placed.radius * rng.uniform(0.8, 1.1))


def turned(mask: Mask, centre: tuple[float, float], rng: random.Random) -> Mask:
    """Turn a drawn thing about its own centre."""
    image = Image.fromarray(mask).rotate(rng.uniform(-180, 180), Image.Resampling.BILINEAR, center=centre)
    return np.asarray(image, dtype=np.float32)


def controlled_painting(scene: Scene, rng: random.Random) -> tuple[Pixels, Mask]:
    """Paint a scene: a third of them as prompts place things, a third with things elsewhere, a third with them turned, too."""
    freedom = rng.randrange(3)
    canvas = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    canvas[:] = COLOURS[scene.ground]
    covered = np.zeros((SIDE, SIDE), dtype=np.float32)
    for item in place(scene, rng):
        thing = moved(item, rng) if freedom else item
        mask = draw_mask(thing.thing.shape, (thing.x, thing.y), thing.radius, (SIDE, SIDE))
        mask = turned(mask, (thing.x, thing.y), rng) if freedom == 2 else mask
        canvas += mask[..., None] * (np.asarray(COLOURS[thing.thing.colour], dtype=np.float32) - canvas)
        covered = np.maximum(covered, mask)
    return canvas.round().astype(np.uint8), covered


def control_example(seed: int, index: int) -> tuple[str, Pixels, Mask]:
    """Return caption, picture and mask number `index` for the control network; its edges are `edges` of the picture."""
    scene = training_scene(seed, index)
    rng = random.Random(f"control:{seed}:{index}")
    pixels, mask = controlled_painting(scene, rng)
    return control_caption(scene, rng), pixels, mask
