"""The VAE: pictures to latents and back, with the scale and shift that its checkpoint's network was trained on."""

from typing import Any

import msgspec
import torch


class Moments(msgspec.Struct, frozen=True):
    """What the VAE knows of a picture: mean and standard deviation of its latents, each [1, C, h, w], unscaled."""

    mean: torch.Tensor
    std: torch.Tensor


class Autoencoder:
    """A loaded ``AutoencoderKL``; scaled latents are ``(latents - shift) * factor``."""

    __slots__ = ("channels", "factor", "module", "scale", "shift")

    def __init__(self, module: Any) -> None:
        """Take a module that is already on its device, in evaluation mode."""
        self.module = module
        self.channels: int = module.config.latent_channels
        self.scale: int = 2 ** (len(module.config.block_out_channels) - 1)
        """Pixels per latent along one axis."""
        self.factor = float(module.config.scaling_factor)
        self.shift = float(module.config.shift_factor or 0.0)

    def moments(self, pixels: torch.Tensor) -> list[Moments]:
        """Latent moments of pictures [n, 3, H, W] in -1..1."""
        posterior = self.module.encode(pixels.to(self.module.device, self.module.dtype)).latent_dist
        return [Moments(posterior.mean[i : i + 1], posterior.std[i : i + 1]) for i in range(len(pixels))]

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The VAE's own latents as the network sees them."""
        return self.factor * (latents - self.shift) if self.shift else self.factor * latents

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The network's latents as the VAE sees them."""
        return latents / self.factor + self.shift if self.shift else latents / self.factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [n, H, W, 3], uint8, of scaled clean latents [n, C, h, w]."""
        pixels = self.module.decode(self.unscaled(latents).to(self.module.dtype), return_dict=False)[0]
        levels = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
        quantised: torch.Tensor = levels.round().to(torch.uint8).permute(0, 2, 3, 1)
        return quantised
