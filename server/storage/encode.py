"""Pixels to files: PNG, JPEG, WebP and AVIF."""

import io

from PIL import Image, ImageOps, features

from pipelines.contract.picture import Picture
from server.domain.asset import Delivery, Format
from server.storage.texts import JPEG_MOST, chunks, written

_DEFAULT_QUALITY = {Format.JPEG: 90, Format.WEBP: 90, Format.AVIF: 80}
"""AVIF's scale is another: at 80 it is as good as JPEG at 90."""
_FULL_COLOUR = 90
"""From that quality on colours are kept as finely as brightness."""
_AVIF_SPEED = 8
"""0 to 10: a third of the default's time, for files a tenth larger."""
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


def writable(form: Format) -> bool:
    """Whether the Pillow at hand writes it: AVIF is a part that some are built without."""
    return form is not Format.AVIF or bool(features.check("avif"))


def encode(
    picture: Picture, delivery: Delivery, parameters: str | None = None, request: str | None = None, xmp: bytes | None = None
) -> bytes:
    """The file; ``parameters`` (infotext) and ``request`` (JSON in ASCII) stand in it where other tools look for them.

    ``xmp`` is a packet of XMP, which goes where each format keeps it.
    """
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)
    target = io.BytesIO()
    quality = _DEFAULT_QUALITY.get(delivery.format, 0) if delivery.quality is None else delivery.quality
    if delivery.format is Format.PNG:
        image.save(target, "PNG", compress_level=_PNG_LEVEL, pnginfo=chunks(parameters, request, xmp))
        return target.getvalue()
    more = written(parameters, request, most=JPEG_MOST if delivery.format is Format.JPEG else None)
    if delivery.format is Format.JPEG:
        if image.mode == "RGBA":
            image = image.convert("RGB")
        subsampling = 0 if quality >= _FULL_COLOUR else 2
        image.save(target, "JPEG", quality=min(max(quality, 1), 100), subsampling=subsampling, exif=more, xmp=xmp)
    elif delivery.format is Format.AVIF:
        colours = "4:4:4" if quality >= _FULL_COLOUR else "4:2:0"
        image.save(target, "AVIF", quality=quality, speed=_AVIF_SPEED, subsampling=colours, exif=more, xmp=xmp or b"")
    elif delivery.quality == _LOSSLESS:
        image.save(target, "WEBP", lossless=True, quality=40, method=2, exif=more, xmp=xmp or b"")
    else:
        image.save(target, "WEBP", quality=quality, method=3, exif=more, xmp=xmp or b"")
    return target.getvalue()
