"""What every control network can do, however it speaks to the model."""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import torch
from PIL import Image

from pipelines.adapters.control.part import ControlPart
from pipelines.families.conditioning import Conditioning
from pipelines.families.family import Family
from pipelines.families.residuals import Residuals


class Said(msgspec.Struct, frozen=True):
    """What a network adds to some evaluations of a tick."""

    rows: list[int]
    """One for each of n; an evaluation may be there several times, and gets the sum."""
    residuals: Residuals
    """With n rows."""


class Asked(msgspec.Struct, frozen=True):
    """The evaluations of one tick that a network speaks to, and what it may look at. Nothing is padded to another's length."""

    rows: list[int]
    parts: list[ControlPart]
    latents: torch.Tensor
    """[n, C, h, w]: scaled, without the mask channels of nine-channel networks."""
    timesteps: torch.Tensor
    """[n]."""
    conditioning: Conditioning


class ControlNetwork(Protocol):
    """One control network on the device; its hint work is done once per image, the rest in every tick."""

    @property
    def bytes(self) -> int:
        """Parameters and buffers."""
        ...

    @property
    def fused(self) -> bool:
        """Whether all control images of one row are read in one evaluation."""
        ...

    @property
    def positive_only(self) -> bool:
        """Whether it speaks to positive prompts only, whatever the balance."""
        ...

    def check(self, family: Family) -> None:
        """Raise `Unsupported` unless it was made for networks like that of ``family``."""
        ...

    def hint(self, picture: Image.Image, family: Family, mode: int) -> tuple[torch.Tensor, ...]:
        """What it will want of ``picture``, which has the size of the image to be made; batch dimension 1.

        Raises `InvalidRequest` for a size or a ``mode`` that it cannot have.
        """
        ...

    def speak(self, family: Family, asked: Asked) -> Sequence[Said]:
        """What it adds, weighed, to the evaluations ``asked``."""
        ...
