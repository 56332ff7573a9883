"""The VAE: pictures to latents and back, with the scale and shift that its checkpoint's network was trained on.

Many VAEs overflow in float16. One whose config says so runs in float32; any other is watched, and a picture that overflows is
made again in float32. Pictures past `TILE_ABOVE` pixels go through in blended tiles, so that memory stays bounded.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from pipelines.contract.errors import EngineFailure

TILE_ABOVE = 1536 * 1536
"""Pixels up to which a picture goes through the VAE whole, as in diffusers without ``enable_tiling``."""

_LEAST_TILE = 512
"""Pixels along a side of a tile at least: small tiles are all seam."""

_log = logging.getLogger(__name__)


def steady(dtype: torch.dtype, config: Mapping[str, Any]) -> torch.dtype:
    """The type in which the VAE of ``config`` is to be loaded for a network in ``dtype``: float32 where float16 overflows.

    Only a config that itself says ``force_upcast`` counts; SD 1.x says nothing, and true is but the class's default.
    """
    says = bool(config.get("force_upcast")) and "force_upcast" not in config.get("_use_default_values", ())
    return torch.float32 if says and dtype is torch.float16 else dtype


class Moments(msgspec.Struct, frozen=True):
    """What the VAE knows of a picture: mean and standard deviation of its latents, each [1, C, h, w], unscaled."""

    mean: torch.Tensor
    std: torch.Tensor


class Autoencoder:
    """A loaded ``AutoencoderKL``; scaled latents are ``(latents - shift) * factor``.

    Pictures go through one at a time wherever the engine can, so diffusers' slicing would change nothing.
    """

    __slots__ = ("_tile_above", "channels", "factor", "module", "overflows", "scale", "shift")

    def __init__(self, module: Any, *, tile_above: int = TILE_ABOVE) -> None:
        """Take a module that is already on its device, in evaluation mode; it becomes float32 if it must."""
        wanted = steady(module.dtype, module.config)
        if wanted is not module.dtype:
            module.to(wanted)
        self.module = module
        self.channels: int = module.config.latent_channels
        self.scale: int = 2 ** (len(module.config.block_out_channels) - 1)
        """Pixels per latent along one axis."""
        self.factor = float(module.config.scaling_factor)
        self.shift = float(module.config.shift_factor or 0.0)
        self.overflows = 0
        """Pictures made again in float32 so far."""
        self._tile_above = tile_above
        module.tile_sample_min_size = max(module.tile_sample_min_size, _LEAST_TILE)
        module.tile_latent_min_size = module.tile_sample_min_size // self.scale

    def moments(self, pixels: torch.Tensor) -> list[Moments]:
        """Latent moments of pictures [n, 3, H, W] in -1..1; raises `EngineFailure` if they are not finite."""
        height, width = pixels.shape[-2:]
        inputs = pixels.to(self.module.device)

        def encode() -> torch.Tensor:
            encoded: torch.Tensor = self.module.encode(inputs.to(self.module.dtype), return_dict=False)[0].parameters
            return encoded

        posterior = DiagonalGaussianDistribution(self._finite(encode, "reading", width, height))
        return [Moments(posterior.mean[i : i + 1], posterior.std[i : i + 1]) for i in range(len(pixels))]

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The VAE's own latents as the network sees them."""
        return self.factor * (latents - self.shift) if self.shift else self.factor * latents

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The network's latents as the VAE sees them."""
        return latents / self.factor + self.shift if self.shift else latents / self.factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [n, H, W, 3], uint8, of scaled clean latents [n, C, h, w]; raises `EngineFailure` if they are not finite."""
        quantised: torch.Tensor = (self.pixels(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return quantised

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """The same as [n, 3, H, W], float32 in 0..1."""
        height, width = (side * self.scale for side in latents.shape[-2:])

        def decode() -> torch.Tensor:
            decoded: torch.Tensor = self.module.decode(self.unscaled(latents.to(self.module.dtype)), return_dict=False)[0]
            return decoded

        pixels = self._finite(decode, "drawing", width, height)
        levels: torch.Tensor = (pixels.float() / 2 + 0.5).clamp(0, 1)
        return levels

    def _finite(self, run: Callable[[], torch.Tensor], doing: str, width: int, height: int) -> torch.Tensor:
        """What ``run`` gives, tiled if the picture is large, in float32 if half precision overflowed."""
        self.module.use_tiling = width * height > self._tile_above
        try:
            result = run()
            if not _finite(result) and self.module.dtype is not torch.float32:
                self.overflows += 1
                _log.warning("the VAE overflowed while %s a %dx%d picture; it is done again in float32", doing, width, height)
                result = self._in_float32(run)
        finally:
            self.module.use_tiling = False
        if not _finite(result):
            msg = f"The VAE gave no finite numbers while {doing} a {width}x{height} picture, not even in float32."
            raise EngineFailure(msg)
        return result

    def _in_float32(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        own = self.module.dtype
        self._convert(torch.float32)
        try:
            return run()
        finally:
            # Exact: these weights were of that type before.
            self._convert(own)

    def _convert(self, dtype: torch.dtype) -> None:
        # Outside of inference mode, or the weights would become tensors that nothing else may touch.
        with torch.inference_mode(mode=False):
            self.module.to(dtype)


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
