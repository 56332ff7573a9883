"""Input pictures on their way to the VAE: fitted to the requested size, then numbers.

Scaling uses Lanczos, as in diffusers' ``VaeImageProcessor``, so that a picture gives the same tensor as there. What masks do is
said in `pipelines.adapters`.
"""

import numpy as np
import torch
from PIL import Image

from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import Init


def init_pixels(init: Init, width: int, height: int) -> torch.Tensor:
    """The picture to begin with, [1, 3, height, width] float32 in -1..1."""
    return as_pixels(fit(to_image(init.picture).convert("RGB"), width, height, init.resize))


def as_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB ``image`` as [1, 3, height, width] float32 in -1..1."""
    array = np.asarray(image, dtype=np.float32) / 255.0
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0) * 2.0 - 1.0


def fit(image: Image.Image, width: int, height: int, how: Resize) -> Image.Image:
    """``image`` at exactly ``width`` x ``height``; CROP and FILL scale and place it as diffusers' modes of those names do."""
    if how is Resize.STRETCH or image.width * height == image.height * width:
        return image.resize((width, height), Image.Resampling.LANCZOS)
    wide = image.width * height > image.height * width
    if wide is (how is Resize.CROP):
        size = (max(1, image.width * height // image.height), height)
    else:
        size = (width, max(1, image.height * width // image.width))
    scaled = image.resize(size, Image.Resampling.LANCZOS)
    left, top = width // 2 - scaled.width // 2, height // 2 - scaled.height // 2
    if how is Resize.CROP:
        return scaled.crop((-left, -top, width - left, height - top))
    array = np.asarray(scaled)
    padding = [(top, height - scaled.height - top), (left, width - scaled.width - left)]
    return Image.fromarray(np.pad(array, padding + [(0, 0)] * (array.ndim - 2), mode="edge"))


def to_image(picture: Picture) -> Image.Image:
    """The PIL form of ``picture``."""
    return Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)


def to_picture(image: Image.Image) -> Picture:
    """The contract's form of an RGB ``image``."""
    return Picture(width=image.width, height=image.height, mode="RGB", data=as_mode(image, "RGB").tobytes())


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in ``mode``: itself where it is so already, which Pillow would copy."""
    return image if image.mode == mode else image.convert(mode)
