"""Words inside of image files, where Stable Diffusion tools write and read them."""

from PIL import Image
from PIL.PngImagePlugin import PngInfo

JPEG_MOST = 65_000
"""Bytes: all of a JPEG's EXIF data is one segment."""

REQUEST = "aquatint"
"""The PNG text chunk of the request's JSON, beside ``parameters``."""

_EXIF, _USER_COMMENT, _DESCRIPTION = 0x8769, 0x9286, 0x010E


def chunks(parameters: str | None, request: str | None, xmp: bytes | None = None) -> PngInfo:
    """PNG text chunks: ``parameters`` holds the infotext, ``aquatint`` the JSON, and XMP has a name of its own."""
    info = PngInfo()
    for key, text in (("parameters", parameters), (REQUEST, request)):
        if text is not None:
            info.add_itxt(key, text)
    if xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return info


def written(parameters: str | None, request: str | None, *, most: int | None) -> bytes:
    """EXIF data: UserComment holds the infotext, as AUTOMATIC1111 writes it, ImageDescription the JSON.

    What is then longer than ``most`` bytes goes without the JSON, if that is not enough without anything.
    """
    for kept in ((parameters, request), (parameters, None)):
        data = _exif(*kept)
        if most is None or len(data) <= most:
            return data
    return b""


def _exif(parameters: str | None, request: str | None) -> bytes:
    if parameters is None and request is None:
        return b""
    exif = Image.Exif()
    if request is not None:
        exif[_DESCRIPTION] = request
    if parameters is not None:
        # A surrogate without its other half cannot be written, and comes in by JSON's escapes.
        exif.get_ifd(_EXIF)[_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be", "replace")
    return exif.tobytes()
