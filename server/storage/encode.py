"""Pixels to files: PNG, JPEG and WebP."""

import io

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from pipelines.contract.picture import Picture
from server.domain.asset import Delivery, Format

_DEFAULT_QUALITY = 90
_LOSSLESS = 100
_PNG_LEVEL = 4
"""zlib level: within a few percent of the best size, in a third of the time."""


def enlarged(picture: Picture, width: int, height: int) -> Picture:
    """``picture`` at another size, smoothly: how a small preview stands for the image to come."""
    if (picture.width, picture.height) == (width, height):
        return picture
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return Picture(width, height, picture.mode, image.tobytes())


def reduced(picture: Picture, width: int, height: int) -> Picture:
    """``picture`` scaled down to ``width`` x ``height`` by a Lanczos filter; where shapes differ, the overhang is cut evenly."""
    if (picture.width, picture.height) == (width, height):
        return picture
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return Picture(width, height, picture.mode, image.tobytes())


def encode(picture: Picture, delivery: Delivery, parameters: str | None = None, xmp: bytes | None = None) -> bytes:
    """The file; a PNG carries ``parameters`` in its text chunk of that name, where other tools look for them.

    ``xmp`` is a packet of XMP, which goes where each format keeps it.
    """
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)
    target = io.BytesIO()
    quality = _DEFAULT_QUALITY if delivery.quality is None else delivery.quality
    if delivery.format is Format.PNG:
        info = PngInfo()
        if parameters is not None:
            info.add_itxt("parameters", parameters)
        if xmp is not None:
            info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        image.save(target, "PNG", compress_level=_PNG_LEVEL, pnginfo=info)
    elif delivery.format is Format.JPEG:
        if image.mode == "RGBA":
            image = image.convert("RGB")
        sampling = 0 if quality >= _DEFAULT_QUALITY else 2
        image.save(target, "JPEG", quality=min(max(quality, 1), 100), subsampling=sampling, xmp=xmp)
    elif delivery.quality == _LOSSLESS:
        image.save(target, "WEBP", lossless=True, quality=40, method=2, xmp=xmp or b"")
    else:
        image.save(target, "WEBP", quality=quality, method=3, xmp=xmp or b"")
    return target.getvalue()
