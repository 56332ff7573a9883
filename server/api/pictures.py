"""The pictures of a request: read from wherever they are, decoded under limits."""

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping

import msgspec

from pipelines.contract.errors import BadPicture, InvalidRequest, TooLarge, Unsupported
from pipelines.contract.picture import Picture
from server.api.adapters import MAX_CONTROLS, MAX_REFERENCE_IMAGES, MAX_REFERENCES
from server.api.checks import few
from server.api.errors import UnknownAsset
from server.api.options import ReferenceOption, Shaping
from server.api.orders import Supplied
from server.api.uploads import Uploads
from server.domain.job import Order
from server.domain.origin import Origin
from server.domain.ports.inputs import InputSource
from server.storage.kinds import media_type
from server.storage.provenance.reading import signed

_DATA_URL = re.compile(r"data:[^,;]*(;[^,;]*)*;base64,", re.IGNORECASE)
_ASSET = "asset_"
_CHANNELS = 4
"""A picture of the largest size (RGB) together with its mask is what all pictures of a request may come to."""


class Pictures:
    """Gathers what a request needs; nothing is fetched from other places."""

    __slots__ = ("_inputs", "_most", "_origins", "_uploads")

    def __init__(self, uploads: Uploads, inputs: InputSource, max_pixels: int, *, origins: int = 0) -> None:
        """``origins``: bytes of signed files that are kept beside the pixels of one request; 0 where nothing is signed."""
        self._uploads = uploads
        self._inputs = inputs
        self._most = max_pixels * _CHANNELS
        self._origins = origins

    def source(self, tenant: str, parts: Mapping[str, bytes] | None = None) -> "PictureSource":
        """Reads for one request of ``tenant``, whose form had the file ``parts``."""
        return PictureSource(self._uploads, self._inputs, self._most, tenant, parts or {}, origins=self._origins)

    async def trimmed(self, order: Order) -> Order:
        """``order`` without pixels of its picture that the image cannot show: they need not travel to the worker."""
        request = order.request
        if request.init is None:
            return order
        start = await self._uploads.trimmed(request.init, request.width, request.height)
        return msgspec.structs.replace(order, request=msgspec.structs.replace(request, init=start))


class PictureSource:
    """The pictures of one request."""

    __slots__ = ("_inputs", "_left", "_most", "_origins", "_origins_left", "_parts", "_tenant", "_unused", "_uploads")

    def __init__(
        self, uploads: Uploads, inputs: InputSource, most: int, tenant: str, parts: Mapping[str, bytes], *, origins: int
    ) -> None:
        self._uploads = uploads
        self._inputs = inputs
        self._most = self._left = most
        self._tenant = tenant
        self._parts = parts
        self._unused = set(parts)
        self._origins: list[Origin] = []
        self._origins_left = origins

    @property
    def unused(self) -> list[str]:
        """Files that no option has named so far."""
        return sorted(self._unused)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Files of the pictures so far that somebody has signed."""
        return tuple(self._origins)

    async def supplied(
        self, options: Shaping, image: bytes | str | None, mask: bytes | str | None, *, drawn_mask: bool = False
    ) -> Supplied:
        """Every picture that ``options`` name, with the one to start from; ``drawn_mask`` takes black and white masks too."""
        few(len(options.controls or ()), "controls", MAX_CONTROLS)
        few(len(options.references or ()), "references", MAX_REFERENCES)
        controls: list[Picture] = []
        references: list[tuple[Picture, ...]] = []
        start = None if image is None else await self.picture(image, "image")
        kept = None
        if mask is not None:
            kept = await self.mask(mask, drawn=drawn_mask)
        for index, control in enumerate(options.controls or ()):
            controls.append(await self.picture(_named(control.image, f"controls[{index}].image"), f"controls[{index}].image"))
        for index, reference in enumerate(options.references or ()):
            named = _several(reference, f"references[{index}]")
            references.append(tuple([await self.picture(text, where) for where, text in named.items()]))
        return Supplied(start, kept, tuple(controls), tuple(references), self.origins)

    async def picture(self, source: bytes | str, param: str) -> Picture:
        """The picture in ``source``: a file's content, a data: URL, the id of an asset, or the name of a file of the form."""
        data = await self.content(source, param)
        picture = self._counted(await self._uploads.picture(data, param), param)
        await self._remember(data, param)
        return picture

    async def _remember(self, data: bytes, param: str) -> None:
        """Keep the file for the result's manifest if somebody has signed it and there is room."""
        kind = media_type(data)
        if kind is not None and len(data) <= self._origins_left and await asyncio.to_thread(signed, data):
            self._origins_left -= len(data)
            self._origins.append(Origin(param, kind, data))

    async def mask(self, source: bytes | str, *, drawn: bool = False) -> Picture:
        """The mask in ``source``, which is named in the same ways; ``drawn`` takes black and white ones too."""
        return self._counted(await self._uploads.mask(await self.content(source, "mask"), drawn=drawn), "mask")

    def _counted(self, picture: Picture, param: str) -> Picture:
        self._left -= len(picture.data)
        if self._left < 0:
            msg = f"The pictures of one request may have {self._most // 3} pixels together; {param!r} goes beyond it."
            raise TooLarge(msg, param=param)
        return picture

    async def content(self, source: bytes | str, param: str) -> bytes:
        """The file itself, not yet decoded."""
        if isinstance(source, bytes):
            return source
        if source[:5].lower() == "data:":
            return await asyncio.to_thread(inline, source, param)
        if source.startswith(_ASSET):
            found = await self._inputs.get(self._tenant, source)
            if found is None:
                msg = f"There is no asset {source!r}, or not any more; upload it to /api/assets again."
                raise UnknownAsset(msg, param=param)
            return found
        if source in self._parts:
            self._unused.discard(source)
            return self._parts[source]
        if "://" in source[:16]:
            msg = f"{param!r} must be a data: URL or the id of an asset; nothing is fetched from other places."
            raise Unsupported(msg, param=param)
        msg = f"{param!r} must be a data: URL, the id of an asset, or in a form the name of one of its files."
        raise BadPicture(msg, param=param)


def inline(url: str, param: str) -> bytes:
    """The content of a base64 ``data:`` URL."""
    header = _DATA_URL.match(url[:256])
    if header is None:
        msg = f"The data: URL in {param!r} must be base64."
        raise BadPicture(msg, param=param)
    try:
        return base64.b64decode(url[header.end() :], validate=True)
    except (binascii.Error, ValueError):
        msg = f"The data: URL in {param!r} is not valid base64."
        raise BadPicture(msg, param=param) from None


def _named(text: str | None, param: str) -> str:
    if not text:
        msg = f"Missing required parameter: '{param}'."
        raise InvalidRequest(msg, param=param)
    return text


def _several(reference: ReferenceOption, where: str) -> dict[str, str]:
    """The pictures of one reference by their places."""
    if reference.image and reference.images:
        msg = f"'{where}' has 'image' and 'images'; send one of them."
        raise InvalidRequest(msg, param=f"{where}.images")
    if not reference.images:
        return {f"{where}.image": _named(reference.image, f"{where}.image")}
    few(len(reference.images), f"{where}.images", MAX_REFERENCE_IMAGES)
    return {f"{where}.images[{index}]": _named(text, f"{where}.images[{index}]") for index, text in enumerate(reference.images)}
