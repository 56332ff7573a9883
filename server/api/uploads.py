"""Uploaded images: foreign bytes, decoded under limits, off the event loop."""

import asyncio
import io
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

import msgspec
from PIL import Image, ImageOps

from pipelines.contract.errors import BadPicture, TooLarge
from pipelines.contract.picture import Picture
from pipelines.contract.request import Init
from server.api.structure import check_structure
from server.telemetry.metrics import Metrics

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_SPARE = 2
"""Each side stays at least so many times the size of the image to make: the engine's own scaling is what counts."""
_CONCURRENT = 2
"""Decoding at the same time, at most: it bounds the memory that uploads take."""


class Facts(msgspec.Struct, frozen=True):
    """An uploaded picture, as far as its keeper needs to know it."""

    format: str
    """png, jpeg, webp or gif."""
    width: int
    height: int


class Uploads:
    """Decodes what clients send; the content decides, never the name or the declared type."""

    __slots__ = ("_max_pixels", "_metrics", "_threads")

    def __init__(self, max_pixels: int, metrics: Metrics) -> None:
        self._max_pixels = max_pixels
        self._metrics = metrics
        self._threads = asyncio.Semaphore(_CONCURRENT)

    async def picture(self, data: bytes, param: str = "image") -> Picture:
        """An RGB picture; what is transparent becomes white."""
        return await self._run(lambda: _picture(open_image(data, param, self._max_pixels)))

    async def mask(self, data: bytes, param: str = "mask", *, drawn: bool = False) -> Picture:
        """An OpenAI mask as ours: what is transparent in theirs is 255 (repaint) here, what is opaque 0 (keep).

        With ``drawn`` a mask without transparency is read as it is drawn: white is repainted, black is kept.
        """
        return await self._run(lambda: _mask(open_image(data, param, self._max_pixels), param, drawn=drawn))

    async def checked(self, data: bytes, param: str) -> Facts:
        """What ``data`` is; raises as `picture` does if it is no usable picture."""
        return await self._run(lambda: _facts(data, param, self._max_pixels))

    async def trimmed(self, init: Init, width: int, height: int) -> Init:
        """``init`` without pixels that a ``width`` x ``height`` image cannot show: whole factors only.

        A picture that keeps its own size keeps all of them, and so does one with margins, which are counted in its pixels.
        """
        if init.masking.only_masked or init.outpaint is not None:
            return init
        factor = min(init.picture.width // width, init.picture.height // height) // _SPARE
        if factor <= 1:
            return init
        mask = init.mask

        def work() -> Init:
            small = _reduced(init.picture, factor)
            return msgspec.structs.replace(init, picture=small, mask=None if mask is None else _reduced(mask, factor))

        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._threads:
            began = time.perf_counter()
            result = await asyncio.to_thread(work)
            self._metrics.decoded(time.perf_counter() - began)
            return result


def open_image(data: bytes, param: str, max_pixels: int) -> Image.Image:
    """The first frame, turned upright, in mode RGB or RGBA."""
    if not data:
        msg = f"{param!r} is empty."
        raise BadPicture(msg, param=param)
    check_structure(data, param)
    try:
        with warnings.catch_warnings():
            # Pillow only warns of some bombs; the size is checked below, before anything is decoded. Of broken EXIF it warns
            # once for each tag: thousands of lines in the log for one upload.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image, param, max_pixels)
            image.load()
            # Read before the mode changes: conversion forgets the orientation.
            upright = ImageOps.exif_transpose(image)
        return _eight_bits(upright)
    except BadPicture:
        raise
    except TooLarge:
        raise
    except Image.DecompressionBombError:
        msg = f"{param!r} has more pixels than the limit of {max_pixels}."
        raise TooLarge(msg, param=param) from None
    except Exception as error:  # decoders of foreign bytes raise whatever they like
        msg = f"{param!r} is not a usable image ({', '.join(FORMATS)}): {_reason(error)}"
        raise BadPicture(msg, param=param) from error


def _facts(data: bytes, param: str, max_pixels: int) -> Facts:
    upright = open_image(data, param, max_pixels)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return Facts(str(image.format).lower(), upright.width, upright.height)


def _reduced(picture: Picture, factor: int) -> Picture:
    image = Image.frombytes(picture.mode, (picture.width, picture.height), picture.data).reduce(factor)
    return Picture(image.width, image.height, picture.mode, image.tobytes())


def _check_size(image: Image.Image, param: str, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        msg = f"{param!r} is {image.width}x{image.height} = {pixels} pixels; the limit is {max_pixels}."
        raise TooLarge(msg, param=param)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Sixteen bits of grey: keep the upper eight. Pillow's own conversion would cut everything above 255.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def _picture(image: Image.Image) -> Picture:
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return Picture(image.width, image.height, "RGB", image.tobytes())


def _mask(image: Image.Image, param: str, *, drawn: bool) -> Picture:
    if drawn and (image.mode != "RGBA" or image.getchannel("A").getextrema() == (255, 255)):
        grey = image.convert("L")
        return Picture(grey.width, grey.height, "L", grey.tobytes())
    if image.mode != "RGBA":
        msg = f"{param!r} has no alpha channel: send a PNG whose transparent pixels are what to repaint."
        raise BadPicture(msg, param=param)
    alpha = ImageOps.invert(image.getchannel("A"))
    return Picture(alpha.width, alpha.height, "L", alpha.tobytes())


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "its content is of no known kind"
    return str(error) or type(error).__name__
