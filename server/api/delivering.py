"""How results are to be encoded: pure."""

import msgspec

from pipelines.contract.errors import InvalidRequest, Unsupported
from server.api.checks import whole
from server.api.options import OutputOption
from server.api.sizing import written
from server.domain.asset import Delivery, Format, Told
from server.domain.job import Order
from server.storage.encode import writable

_FORMATS = {"png": Format.PNG, "jpeg": Format.JPEG, "jpg": Format.JPEG, "webp": Format.WEBP, "avif": Format.AVIF}


class Names(msgspec.Struct, frozen=True):
    """What a dialect calls format and quality."""

    format: str = "output.format"
    quality: str = "output.quality"


def delivery(
    word: str | None, quality: int | None, size: str | None = None, names: Names | None = None, metadata: Told | None = None
) -> Delivery:
    """The encoding that a format's name, a quality of 0 to 100 and a size ask for."""
    names = names or Names()
    word = (word or "png").lower()
    if word not in _FORMATS:
        msg = f"{names.format!r} must be one of png, jpeg, webp, avif; {word!r} is not made here."
        raise Unsupported(msg, param=names.format)
    form = _FORMATS[word]
    if not writable(form):
        msg = f"{names.format!r} cannot be {word} here: this server's Pillow was built without it."
        raise Unsupported(msg, param=names.format)
    width, height = (None, None) if size is None else written(size, "output.size", "256x256")
    if quality is not None:
        whole(quality, names.quality, 0, 0, 100)
        if form is Format.PNG:
            if quality != 100:  # noqa: PLR2004 - OpenAI's default, sent by clients that send every default
                msg = f"{names.quality!r} goes with jpeg, webp and avif only."
                raise InvalidRequest(msg, param=names.quality)
            quality = None
    return Delivery(form, quality, width, height, metadata)


def merged(output: OutputOption | None, word: str | None, quality: int | None, names: Names) -> Delivery:
    """The same where a dialect has words of its own beside ``output``; what is said twice is refused."""
    if output is None:
        return delivery(word, quality, None, names)
    if output.format is not None and word is not None:
        msg = f"{names.format!r} and 'output.format' say the same thing; send one."
        raise InvalidRequest(msg, param="output.format")
    if output.quality is not None and quality is not None:
        msg = f"{names.quality!r} and 'output.quality' say the same thing; send one."
        raise InvalidRequest(msg, param="output.quality")
    said = Names(
        names.format if word is not None else "output.format", names.quality if quality is not None else "output.quality"
    )
    return delivery(word or output.format, output.quality if quality is None else quality, output.size, said, output.metadata)


def result(order: Order) -> tuple[int, int]:
    """The size that the caller will see; raises `InvalidRequest` if it is none that the finished picture can have."""
    return order.delivery.size(*order.request.finished_size)
