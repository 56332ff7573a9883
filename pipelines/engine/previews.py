"""Cheap looks at unfinished images: a linear map from latents to colours, fitted to the model's own VAE.

Published factor tables exist for a few VAEs only. Solid colours through the encoder and a least-squares fit give the same kind of
map for any VAE, in a few small encodes at the first preview.
"""

from itertools import product

import torch

from pipelines.contract.picture import Picture
from pipelines.families.family import Family

_LEVELS = (-0.9, 0.0, 0.9)
_SIDE = 64


class Previewer:
    """Projects latents of one model to small RGB pictures, one pixel per latent."""

    __slots__ = ("_family", "_map")

    def __init__(self, family: Family) -> None:
        """Nothing is fitted before the first picture."""
        self._family = family
        self._map: torch.Tensor | None = None

    def picture(self, latents: torch.Tensor) -> Picture:
        """A look at scaled latents [1, C, h, w], as a w x h picture."""
        if self._map is None:
            self._map = self._fit()
        flat = self._family.vae.unscaled(latents[0].float()).flatten(1).T
        ones = torch.ones(len(flat), 1, device=flat.device)
        colours = torch.cat([flat, ones], dim=1) @ self._map
        pixels = ((colours / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        height, width = latents.shape[-2:]
        return Picture(width=width, height=height, mode="RGB", data=pixels.numpy().tobytes())

    def _fit(self) -> torch.Tensor:
        colours = torch.tensor(list(product(_LEVELS, repeat=3)))
        middles = []
        for colour in colours:
            moments = self._family.vae.moments(colour.view(1, 3, 1, 1).expand(1, 3, _SIDE, _SIDE).contiguous())[0]
            middles.append(moments.mean.float().mean(dim=(2, 3)).cpu())
        design = torch.cat([torch.cat(middles), torch.ones(len(colours), 1)], dim=1)
        solution: torch.Tensor = torch.linalg.lstsq(design, colours).solution
        return solution.to(self._family.device)
