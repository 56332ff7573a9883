"""The mixed workload: unlike requests, the same ones in every run with the same seed."""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import Image, ImageDraw

MODEL = "demo"
SIZES = ((128, 128), (128, 192), (192, 128))
STEPS = (8, 12, 16, 20, 25, 30, 40)
SAMPLERS = ("euler", "euler_a", "dpmpp_2m", "ddim", "unipc")
GUIDANCE = (1.0, 4.0, 6.0)
"""1.0 is no guidance: one evaluation per step instead of two."""
STRENGTHS = (0.5, 0.75)
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart")


@dataclass(frozen=True, slots=True)
class Job:
    """One request of one image, in the terms of the OpenAI dialect and of diffusers alike."""

    number: int
    kind: Literal["txt2img", "img2img"]
    prompt: str
    width: int
    height: int
    steps: int
    sampler: str
    guidance: float
    seed: int
    strength: float = 1.0
    """Share of the steps that is run; below 1 only for img2img."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def guided(self) -> bool:
        """Whether each step costs two evaluations."""
        return self.guidance > 1.0

    @property
    def evaluations(self) -> int:
        """Rows of the UNet that the image costs (every sampler here evaluates once per step)."""
        steps = min(int(self.steps * self.strength), self.steps)
        return steps * (2 if self.guided else 1)

    @property
    def fields(self) -> dict[str, str | int | float]:
        """The request's body, but for the picture of an img2img."""
        body: dict[str, str | int | float] = {
            "model": MODEL,
            "prompt": self.prompt,
            "size": f"{self.width}x{self.height}",
            "response_format": "b64_json",
            "steps": self.steps,
            "sampler": self.sampler,
            "guidance_scale": self.guidance,
            "seed": self.seed,
        }
        if self.kind == "img2img":
            body["strength"] = self.strength
        return body


def jobs(seed: int = 0) -> Iterator[Job]:
    """Jobs without end: a third are img2img, a third unguided, everything else evenly mixed."""
    dice = random.Random(seed)
    number = 0
    while True:
        kind: Literal["txt2img", "img2img"] = "img2img" if dice.random() < 1 / 3 else "txt2img"
        width, height = dice.choice(SIZES)
        yield Job(
            number=number,
            kind=kind,
            prompt=f"a {dice.choice(COLOURS)} {dice.choice(SHAPES)} on a {dice.choice(COLOURS)} background",
            width=width,
            height=height,
            steps=dice.choice(STEPS),
            sampler=dice.choice(SAMPLERS),
            guidance=dice.choice(GUIDANCE),
            seed=dice.randrange(2**32),
            strength=dice.choice(STRENGTHS) if kind == "img2img" else 1.0,
        )
        number += 1


def take(count: int, seed: int = 0) -> list[Job]:
    """The first ``count`` jobs."""
    stream = jobs(seed)
    return [next(stream) for _ in range(count)]


@cache
def picture(width: int, height: int) -> bytes:
    """The PNG that an img2img of that size begins from."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill="red")
    draw.rectangle((0, 7 * height // 8, width, height), fill="green")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
