"""Input pictures on their way to the VAE: fitted to the requested size, then numbers.

Scaling uses Lanczos and masks are binarised at one half, as in diffusers' ``VaeImageProcessor``, so that a picture already of
the requested size, or stretched to it, gives the same tensor as there.
"""

import numpy as np
import torch
from PIL import Image

from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import Init

_HALF = 128


def init_pixels(init: Init, width: int, height: int) -> torch.Tensor:
    """The picture to begin with, [1, 3, height, width] float32 in -1..1."""
    image = fit(to_image(init.picture).convert("RGB"), width, height, init.resize)
    array = np.asarray(image, dtype=np.float32) / 255.0
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0) * 2.0 - 1.0


def mask_pixels(init: Init, width: int, height: int) -> torch.Tensor:
    """The mask, [1, 1, height, width] float32 of 0 (keep) and 1 (repaint); ``init`` must have one."""
    if init.mask is None:
        msg = "there is no mask"
        raise ValueError(msg)
    mask = to_image(init.mask).convert("L")
    size = (init.picture.width, init.picture.height)
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.LANCZOS)
    array = np.asarray(fit(mask, width, height, init.resize))
    return torch.from_numpy((array >= _HALF).astype(np.float32))[None, None]


def fit(image: Image.Image, width: int, height: int, how: Resize) -> Image.Image:
    """``image`` at exactly ``width`` x ``height``."""
    if how is Resize.STRETCH or image.width * height == image.height * width:
        return image.resize((width, height), Image.Resampling.LANCZOS)
    horizontal, vertical = width / image.width, height / image.height
    factor = max(horizontal, vertical) if how is Resize.CROP else min(horizontal, vertical)
    scaled = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), Image.Resampling.LANCZOS)
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    if how is Resize.CROP:
        return scaled.crop((left, top, left + width, top + height))
    array = np.asarray(scaled)
    padding = [(-top, height - scaled.height + top), (-left, width - scaled.width + left)]
    return Image.fromarray(np.pad(array, padding + [(0, 0)] * (array.ndim - 2), mode="edge"))


def keep_outside_mask(init: Init, drawn: Picture) -> Picture:
    """``drawn`` with the input's own pixels wherever the mask does not say repaint."""
    size = (drawn.width, drawn.height)
    original = fit(to_image(init.picture).convert("RGB"), *size, init.resize)
    repaint = Image.fromarray((mask_pixels(init, *size)[0, 0].numpy() * 255).astype(np.uint8))
    return to_picture(Image.composite(to_image(drawn), original, repaint))


def to_image(picture: Picture) -> Image.Image:
    """The PIL form of ``picture``."""
    return Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)


def to_picture(image: Image.Image) -> Picture:
    """The contract's form of an RGB ``image``."""
    return Picture(width=image.width, height=image.height, mode="RGB", data=image.convert("RGB").tobytes())
