"""The demo checkpoint's world in words: coloured shapes on coloured grounds, and how captions say so.

Everything is a function of a seed and an index, so the same scene and caption come back on any machine. Training draws from
`training_scene`, tests from `heldout_scenes`; `is_heldout` keeps the two apart.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Relation = Literal["left of", "above"]
Size = Literal["small", "medium", "large"]

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
RADII: dict[Size, tuple[float, ...]] = {"small": (23.0,), "medium": (32.0,), "large": (44.0,)}

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
