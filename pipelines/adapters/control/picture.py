"""Control images as numbers: 0 to 1, at the size of the image to be made, as diffusers' ``control_image_processor`` has them."""

import numpy as np
import torch
from PIL import Image

from pipelines.contract.picture import Picture, Resize
from pipelines.families.pictures import fit, to_image

CHANNELS = {1: "L", 3: "RGB"}
"""PIL's mode for so many input channels."""


def fitted(picture: Picture, how: Resize, size: tuple[int, int]) -> Image.Image:
    """``picture`` at ``size``, with the transparency that it has."""
    return fit(to_image(picture), *size, how)


def numbers(image: Image.Image, channels: int) -> torch.Tensor:
    """[1, channels, H, W] float32 in 0..1."""
    array = np.asarray(image.convert(CHANNELS[channels]), dtype=np.float32) / 255.0
    return torch.from_numpy(array.reshape(image.height, image.width, channels)).permute(2, 0, 1).unsqueeze(0)


def unknown(image: Image.Image) -> torch.Tensor:
    """[1, 1, H, W] float32: 1 where ``image`` is more transparent than not."""
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return torch.from_numpy((alpha < 128).astype(np.float32))[None, None]  # noqa: PLR2004 - half
