"""Pictures as numbers and back, and at other sizes, without rounding to 8 bits in between.

A level rounded the other way is a visible difference once a network has looked at it: what goes from one pass to the next stays
as it was computed, and only the finished picture is rounded.
"""

import numpy as np
import torch
from PIL import Image

from pipelines.contract.picture import Picture


def as_pixels(picture: Picture) -> torch.Tensor:
    """``picture`` (RGB) as [3, H, W], float32 in 0..1, in main memory."""
    array = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    return torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)


def as_picture(pixels: torch.Tensor) -> Picture:
    """Pixels [3, H, W] in 0..1, on any device, as a picture."""
    levels = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
    return Picture(width=pixels.shape[2], height=pixels.shape[1], mode="RGB", data=levels.numpy().tobytes())


def resized(pixels: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Pixels [3, H, W] in 0..1 at ``width`` x ``height``, by Lanczos with three lobes, each axis by itself."""
    if tuple(pixels.shape[1:]) == (height, width):
        return pixels
    planes = [Image.fromarray(plane.numpy()).resize((width, height), Image.Resampling.LANCZOS) for plane in pixels.contiguous()]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).clamp(0, 1)
