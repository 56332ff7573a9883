"""What the engine asks of a loaded model, whatever its architecture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import torch

from pipelines.contract.catalog import ModelFacts

Progress = Callable[[str, float], None]
"""Told the component at hand and the fraction done, 0..1."""


class Prompt(msgspec.Struct, frozen=True):
    """One text to encode; equal prompts have equal embeddings, so this is also the cache key."""

    text: str
    clip_skip: int = 0


class Moments(msgspec.Struct, frozen=True):
    """What the VAE knows of a picture: mean and standard deviation of its latents, each [1, C, h, w], unscaled."""

    mean: torch.Tensor
    std: torch.Tensor


class Family(Protocol):
    """One loaded checkpoint. All tensors are on `device`; batch dimensions come first; no method keeps state."""

    facts: ModelFacts
    device: torch.device
    dtype: torch.dtype
    scheduler_config: Mapping[str, Any]
    """The checkpoint's own scheduler config, untouched."""
    latent_scale: int
    """Pixels per latent along one axis."""
    latent_factor: float
    """What clean latents are multiplied with before they are noised."""
    max_clip_skip: int
    """How many of the text encoder's last layers may be left out."""

    def encode_prompts(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """One embedding [1, tokens, width] for each prompt."""
        ...

    def encode_pictures(self, pixels: torch.Tensor) -> list[Moments]:
        """Latent moments of pictures [n, 3, H, W] in -1..1."""
        ...

    def evaluate(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """The network's prediction [n, C, h, w] for n rows with a timestep [n] and an embedding [n, tokens, width] each."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [n, H, W, 3], uint8, of clean latents [n, C, h, w]."""
        ...
