"""The canvas of an outpainted picture, and colours for what nobody has painted yet.

Margins get the colours of the picture's edge, the more blurred the further away, before they are repainted. Black or grey margins
would bleed through the VAE, whose encoder looks dozens of pixels around, into the latents that are kept, and show as a
seam; edges stretched outwards leave streaks, and a mirror image leaves doubled things, that any strength below 1 keeps.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - everyone's spelling
from PIL import Image

from pipelines.contract.inpainting import Margins

_RELAXATIONS = 4
"""Averages over the neighbours at each level; the finest, which costs most and has least left to smooth, gets one."""


def grown(image: Image.Image, margins: Margins) -> Image.Image:
    """``image`` with ``margins`` around it, its edges stretched into them, so that scaling finds no edge where it ends."""
    array = np.asarray(image)
    padding = [(margins.top, margins.bottom), (margins.left, margins.right)]
    return Image.fromarray(np.pad(array, padding + [(0, 0)] * (array.ndim - 2), mode="edge"))


def framed(mask: Image.Image, margins: Margins, level: int) -> Image.Image:
    """A grey ``mask`` with ``margins`` of ``level`` around it."""
    canvas = Image.new("L", margins.around(*mask.size), level)
    canvas.paste(mask, (margins.left, margins.top))
    return canvas


def spread(pixels: torch.Tensor, known: torch.Tensor, relaxations: int = 1) -> torch.Tensor:
    """``pixels`` [1, C, H, W] where ``known`` [1, 1, H, W] is 1, and colours spread from there where it is 0; between, a mix.

    Pull and push over a pyramid (Gortler et al., The Lumigraph, SIGGRAPH 1996, section 3.4): what is unknown at one level is
    taken from the next coarser one, so that colours are sharp near what is known, and ever smoother further away. A few
    averages over the neighbours at each level (multigrid relaxation of Laplace's equation) take away the pyramid's grid, which
    would leave a step where it runs along the edge of what is known; ``relaxations`` is their number at the finest level.
    """
    height, width = known.shape[-2:]
    if height == 1 and width == 1:
        return pixels
    padding = (0, width % 2, 0, height % 2)
    weighted, weight = F.pad(pixels * known, padding), F.pad(known, padding)
    sums, total = 4 * F.avg_pool2d(weighted, 2), 4 * F.avg_pool2d(weight, 2)
    coarse = spread(sums / total.clamp(min=torch.finfo(total.dtype).tiny), total.clamp(max=1.0), _RELAXATIONS)
    # The smallest level may know nothing: grey.
    smooth = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)[..., :height, :width]
    for _ in range(relaxations):
        smooth = F.avg_pool2d(pixels * known + (1 - known) * smooth, 3, 1, 1, count_include_pad=False)
    return pixels * known + (1 - known) * smooth
