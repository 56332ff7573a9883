"""Pictures on their way to an upstream and back: encoded, decoded under limits, scaled, masked. Call it in a thread."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec
from PIL import Image, ImageFilter, ImageOps

from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import ImageRequest, Init
from server.domain.failures import UpstreamAmbiguous

MOST_PIXELS = 64_000_000
"""A result with more is none that was asked for."""
_REPAINT = 128
_FORMATS = ("PNG", "JPEG", "WEBP")


class Canvas(msgspec.Struct, frozen=True):
    """What an upstream is shown to work on, at the request's own size and framing."""

    picture: Image.Image
    mask: Image.Image | None
    """Mode L: 255 is repainted, 0 kept; None: the whole picture is material."""


@contextmanager
def read(data: bytes) -> Iterator[Image.Image]:
    """Pillow's idea of a result, its pixels not decoded yet; whatever goes wrong inside the block is an `UpstreamAmbiguous`.

    It was made, and may have been charged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MOST_PIXELS:
            msg = f"{image.width}x{image.height} is more than anybody asked for"
            raise ValueError(msg)  # noqa: TRY301 - told below, as everything that is wrong with it
        yield image
    except Exception as error:  # decoders of foreign bytes raise whatever they like
        msg = f"The upstream answered with something that is no usable picture: {str(error) or type(error).__name__}."
        raise UpstreamAmbiguous(msg) from error


def decoded(data: bytes, *, alpha: bool = False) -> Picture:
    """The pixels of a result; ``alpha`` keeps transparency. Raises `UpstreamAmbiguous`."""
    with read(data) as image:
        image.load()
        return picture_of(image.convert(mode_of(image, alpha=alpha)))


def mode_of(image: Image.Image, *, alpha: bool) -> Literal["RGB", "RGBA"]:
    """What the pixels of a result are to be; ``alpha`` keeps transparency where there is any."""
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    return "RGBA" if alpha and clear else "RGB"


def picture_of(image: Image.Image) -> Picture:
    """Pillow's image as ours."""
    mode: Literal["L", "RGB", "RGBA"] = "L" if image.mode == "L" else "RGBA" if image.mode == "RGBA" else "RGB"
    return Picture(image.width, image.height, mode, image.convert(mode).tobytes())


def image_of(picture: Picture) -> Image.Image:
    """Ours as Pillow's."""
    return Image.frombytes(picture.mode, (picture.width, picture.height), picture.data)


def png(image: Image.Image) -> bytes:
    """A PNG, quickly made: it is read once, at the other end of a connection."""
    target = io.BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()


def canvas(request: ImageRequest, init: Init) -> Canvas:
    """The picture of ``init`` with its margins, and what of it is to be repainted, framed as the request's result will be."""
    picture = image_of(init.picture).convert("RGB")
    mask = None if init.mask is None else image_of(init.mask).convert("L").point(lambda value: 255 if value >= _REPAINT else 0)
    if mask is not None and init.masking.invert:
        mask = ImageOps.invert(mask)
    if init.outpaint is not None:
        margins, size = init.outpaint, init.canvas
        place = (margins.left, margins.top)
        repainted = Image.new("L", size, 255)
        repainted.paste(0 if mask is None else mask, (*place, place[0] + picture.width, place[1] + picture.height))
        # What stands in the margins at first should not be a hint: the picture's own colours, blurred beyond recognition.
        around = picture.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(max(size) / 16))
        around.paste(picture, place)
        picture, mask = around, repainted
    size = (request.width, request.height)
    return Canvas(framed(picture, size, init.resize), None if mask is None else framed(mask, size, init.resize))


def framed(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """``image`` at ``size``, its shape met as ``resize`` says."""
    if image.size == size:
        return image
    if resize is Resize.STRETCH:
        return image.resize(size, Image.Resampling.LANCZOS)
    if resize is Resize.CROP:
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    inner = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
    # Edges, drawn out: as the engine fills.
    left, top = (size[0] - inner.width) // 2, (size[1] - inner.height) // 2
    whole = Image.new(inner.mode, size)
    whole.paste(inner.crop((0, 0, inner.width, 1)).resize((inner.width, max(top, 1))), (left, 0))
    below = size[1] - top - inner.height
    whole.paste(
        inner.crop((0, inner.height - 1, inner.width, inner.height)).resize((inner.width, max(below, 1))),
        (left, size[1] - max(below, 1)),
    )
    whole.paste(inner, (left, top))
    column, last = whole.crop((left, 0, left + 1, size[1])), whole.crop((left + inner.width - 1, 0, left + inner.width, size[1]))
    right = size[0] - left - inner.width
    if left:
        whole.paste(column.resize((left, size[1])), (0, 0))
    if right:  # one pixel, where an odd one was left over
        whole.paste(last.resize((right, size[1])), (left + inner.width, 0))
    return whole


def seen_through(mask: Image.Image) -> Image.Image:
    """Ours (255 repaints) as OpenAI's: an RGBA picture that is transparent where it may be repainted."""
    clear = Image.new("RGBA", mask.size, (0, 0, 0, 255))
    # Nothing between: scaling has left grey at its edges, and half-transparent means nothing there.
    clear.putalpha(mask.point(lambda value: 0 if value >= _REPAINT else 255))
    return clear


class Window(msgspec.Struct, frozen=True):
    """Where on an upstream's canvas of a fixed size our picture lies."""

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    """Left, top, right, bottom."""

    def shown(self, image: Image.Image) -> Image.Image:
        """``image`` in its box, with its own edges drawn out around it."""
        return framed(image, self.size, Resize.FILL)

    def cut(self, image: Image.Image) -> Image.Image:
        """The box of a result, which may have come at another scale."""
        across, down = image.width / self.size[0], image.height / self.size[1]
        left, top, right, bottom = self.box
        return image.crop((round(left * across), round(top * down), round(right * across), round(bottom * down)))


def window(size: tuple[int, int], inner: tuple[int, int]) -> Window:
    """The largest box of the shape of ``inner`` in the middle of ``size``."""
    scale = min(size[0] / inner[0], size[1] / inner[1])
    width, height = min(size[0], round(inner[0] * scale)), min(size[1], round(inner[1] * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return Window(size, (left, top, left + width, top + height))


def whole(frame: Window | None) -> bool:
    """Whether all of a result is the picture."""
    return frame is None or frame.box == (0, 0, *frame.size)


def cut(came: Picture, frame: Window | None) -> Picture:
    """What of a result is the picture: the rest is the upstream's canvas."""
    return came if frame is None or whole(frame) else picture_of(frame.cut(image_of(came)))


def pasted(request: ImageRequest, shown: Canvas | None) -> bool:
    """Whether what a mask keeps is to be the input's own again."""
    return request.init is not None and shown is not None and shown.mask is not None and request.init.keep_unmasked


def finished(result: Picture, request: ImageRequest, shown: Canvas | None = None) -> Picture:
    """``result`` at exactly the size that was asked for; with a mask, what it keeps is the input's own again."""
    size = (request.width, request.height)
    init = request.init
    if init is not None and shown is not None and shown.mask is not None and init.keep_unmasked:
        image = framed(image_of(result), size, Resize.CROP)
        mask = shown.mask.filter(ImageFilter.GaussianBlur(init.masking.blur)) if init.masking.blur else shown.mask
        original = shown.picture.convert(image.mode)
        result = picture_of(Image.composite(image, original, mask))
    if (result.width, result.height) == request.finished_size:
        return result
    return picture_of(framed(image_of(result), request.finished_size, Resize.CROP))
