"""What one row takes of an IP-Adapter."""

import msgspec
import torch

from pipelines.adapters.references.image_prompt import ImagePrompt
from pipelines.adapters.references.sites import Sites


class ReferencePart(msgspec.Struct, frozen=True):
    """One use of an IP-Adapter, on one row, for one of its two prompts."""

    prompt: ImagePrompt
    sites: Sites
    """Of the row's network."""
    tokens: torch.Tensor
    """Of all its pictures, [1, T, W]."""
    weight: float
    start: float = 0.0
    end: float = 1.0
    negative: bool = False
    """For the negative prompt's evaluation; else for the positive one's."""

    def speaks(self, position: int, total: int, *, negative: bool) -> bool:
        """To its own prompt, within its share of the way, counted as diffusers does for ControlNets."""
        return negative is self.negative and position / total >= self.start and (position + 1) / total <= self.end
