"""What comes back from an upstream: looked at at once, and decoded only where somebody needs its pixels.

Most results are passed on as they came, and decoding one takes longer than all else that a proxy does.
"""

import asyncio

from msgspec.structs import replace

from pipelines.contract.picture import Picture
from pipelines.contract.request import ImageRequest
from server.domain.aside import LITTLE
from server.domain.generation import Encoded
from server.providers import pixels
from server.storage.kinds import media_type


async def received(
    data: bytes,
    request: ImageRequest,
    shown: pixels.Canvas | None = None,
    *,
    frame: pixels.Window | None = None,
    alpha: bool = False,
) -> Picture | Encoded:
    """The result in ``data`` as ``request`` asks for it; not decoded where nothing has to be done to it.

    ``shown`` is what the upstream worked on, ``frame`` where on its canvas the picture lies; ``alpha`` keeps transparency. Raises
    `UpstreamAmbiguous` if it is no whole picture.
    """
    if len(data) <= LITTLE and media_type(data) == "image/png":
        # To add up its checksums takes less time than to ask a thread.
        came = examined(data, alpha=alpha)
    else:
        came = await asyncio.to_thread(examined, data, alpha=alpha)
    pasted = pixels.pasted(request, shown)
    if pixels.whole(frame) and (came.width, came.height) == request.finished_size and not pasted:
        return came
    return await asyncio.to_thread(_worked, came, request, shown, frame)


def _worked(came: Encoded, request: ImageRequest, shown: pixels.Canvas | None, frame: pixels.Window | None) -> Picture | Encoded:
    pasted = pixels.pasted(request, shown)
    done = pixels.finished(pixels.cut(opened(came), frame), request, shown)
    # What a mask has kept is not of the upstream's making: its file is no longer what the picture was.
    return done if pasted else replace(came, width=done.width, height=done.height, scaled=done)


def examined(data: bytes, *, alpha: bool = False) -> Encoded:
    """What kind of picture is in ``data``; raises `UpstreamAmbiguous` if it is none or not all of it."""
    with pixels.read(data) as image:
        found = Encoded(image.width, image.height, pixels.mode_of(image, alpha=alpha), data)
        if image.format == "PNG":
            image.verify()  # its parts have checksums, and an end
        else:
            image.load()
        return found


def opened(picture: Picture | Encoded) -> Picture:
    """The pixels; raises `UpstreamAmbiguous` if there are none in the file after all."""
    if isinstance(picture, Picture):
        return picture
    if picture.scaled is not None:
        return picture.scaled
    return pixels.decoded(picture.file, alpha=picture.mode == "RGBA")
