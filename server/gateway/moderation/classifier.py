"""Who looks at pictures: one protocol, and the one that goes by colour."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from PIL import Image

from pipelines.contract.picture import Picture
from server.domain.failures import ModerationUnavailable
from server.domain.verdict import Category

Scores = Mapping[str, float]
"""0 to 1 by category; a category that is not there was not found."""

_SAMPLES = 16
_LEAD = 48


class Classifier(Protocol):
    """Looks at one picture at a time."""

    @property
    def name(self) -> str:
        """Short and stable: it is in metrics and in the audit."""
        ...

    @property
    def installed(self) -> bool:
        """Whether it could ever look at anything on this server."""
        ...

    @property
    def problem(self) -> str | None:
        """Why it cannot look at anything as things stand, or None; costs nothing."""
        ...

    async def classify(self, picture: Picture) -> Scores:
        """What is to be objected to in ``picture``; raises `ModerationUnavailable`."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


class ColourClassifier:
    """Goes by colour, for tests and for trying a policy: the share of red is ``sexual``, the share of blue ``violence``."""

    __slots__ = ()

    name = "colour"
    installed = True
    problem: str | None = None

    async def classify(self, picture: Picture) -> Scores:
        """The shares of the picture in which one colour clearly leads."""
        return await asyncio.to_thread(_shares, picture)

    async def close(self) -> None:
        """It holds nothing."""


class NoClassifier:
    """Stands where the operator wants none."""

    __slots__ = ()

    name = "none"
    installed = False
    problem: str | None = "No image classifier is configured (AQUATINT_IMAGE_CLASSIFIER=none)."

    async def classify(self, picture: Picture) -> Scores:  # noqa: ARG002 - the protocol's signature
        """Nobody looks: always raises `ModerationUnavailable`."""
        raise ModerationUnavailable(self.problem or "")

    async def close(self) -> None:
        """It holds nothing."""


def image_of(picture: Picture, most: int) -> Image.Image:
    """``picture`` in RGB, scaled down to at most ``most`` pixels along a side."""
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data).convert("RGB")
    image.thumbnail((most, most), Image.Resampling.BILINEAR)
    return image


def _shares(picture: Picture) -> Scores:
    data = image_of(picture, 256).resize((_SAMPLES, _SAMPLES), Image.Resampling.BOX).tobytes()
    red = blue = 0
    for r, g, b in zip(data[::3], data[1::3], data[2::3], strict=True):
        red += r - max(g, b) > _LEAD
        blue += b - max(r, g) > _LEAD
    found = {Category.SEXUAL.value: red / _SAMPLES**2, Category.VIOLENCE.value: blue / _SAMPLES**2}
    return {category: round(share, 4) for category, share in found.items() if share}
