"""The pictures of a batch: each is kept once however many lines name it, and decoded again when its line's turn comes."""

import asyncio
import hashlib

from msgspec.structs import replace

from pipelines.contract.control import ControlUse, ReferenceUse
from pipelines.contract.errors import EngineFailure, TooLarge
from server.api.native.bodies import GenerateRequest
from server.api.options import ControlOption, ReferenceOption
from server.api.pictures import Pictures, inline
from server.api.uploads import Uploads
from server.domain.batch import Batch, Line, Pictured
from server.domain.job import Order
from server.domain.ports.batches import BatchRepository
from server.domain.ports.inputs import InputSource

_ASSET = "asset_"
_MOST_HELD = 16 << 20
"""Bytes of pictures that are held before they are written down."""


class Gathered:
    """The pictures that the lines of one new batch name, uploads of the tenant among them; an `InputSource`.

    They are copied, so that the batch is done whatever becomes of the uploads meanwhile.
    """

    __slots__ = ("_batch", "_batches", "_fresh", "_known", "_left", "_most", "_uploads")

    def __init__(self, uploads: InputSource, batches: BatchRepository, batch: Batch, most: int) -> None:
        """``most``: bytes of all of them together."""
        self._uploads, self._batches, self._batch = uploads, batches, batch
        self._known: set[str] = set()
        self._fresh: dict[str, bytes] = {}
        self._most = self._left = most

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        """A picture that was gathered, or an upload, which is gathered thereby."""
        if asset_id in self._fresh:
            return self._fresh[asset_id]
        if asset_id in self._known:
            return await self._batches.input(self._batch.id, asset_id)
        data = await self._uploads.get(tenant, asset_id)
        if data is not None:
            await self._keep(asset_id, data)
        return data

    async def named(self, text: str, param: str) -> str:
        """``text``, or, if the picture is written in it, a name for that."""
        if text[:5].lower() != "data:":
            return text
        data = await asyncio.to_thread(inline, text, param)
        name = f"{_ASSET}{hashlib.sha256(data).hexdigest()[:32]}"
        if name not in self._known:
            await self._keep(name, data)
        return name

    async def flush(self) -> None:
        """Write down what was gathered since the last call."""
        fresh, self._fresh = self._fresh, {}
        if fresh:
            await self._batches.receive(self._batch, (), fresh)

    async def _keep(self, name: str, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            msg = f"The pictures of a batch may have {self._most} bytes together."
            raise TooLarge(msg, param="file")
        self._known.add(name)
        self._fresh[name] = data
        if sum(map(len, self._fresh.values())) > _MOST_HELD:
            await self.flush()


async def with_names(body: GenerateRequest, gathered: Gathered) -> GenerateRequest:
    """``body`` with names in the place of pictures that are written in it."""

    async def named(text: str | None, param: str) -> str | None:
        return None if text is None else await gathered.named(text, param)

    async def control(index: int, option: ControlOption) -> ControlOption:
        return replace(option, image=await named(option.image, f"controls[{index}].image"))

    async def reference(index: int, option: ReferenceOption) -> ReferenceOption:
        where, images = f"references[{index}]", option.images
        if images is not None:
            images = [await gathered.named(text, f"{where}.images[{place}]") for place, text in enumerate(images)]
        return replace(option, image=await named(option.image, f"{where}.image"), images=images)

    return replace(
        body,
        image=await named(body.image, "image"),
        mask=await named(body.mask, "mask"),
        controls=None if body.controls is None else [await control(*each) for each in enumerate(body.controls)],
        references=None if body.references is None else [await reference(*each) for each in enumerate(body.references)],
    )


def pictured(body: GenerateRequest) -> Pictured:
    """The names of the pictures of ``body``, in which every picture has one."""
    references = tuple(
        tuple(option.images) if option.images else () if option.image is None else (option.image,)
        for option in body.references or ()
    )
    single = tuple(not option.images for option in body.references or ())
    controls = tuple(option.image for option in body.controls or () if option.image is not None)
    return Pictured(body.image, body.mask, controls, references, single)


class Refilling:
    """Puts the pictures of lines back into their orders."""

    __slots__ = ("_batches", "_pictures", "_uploads")

    def __init__(self, uploads: Uploads, batches: BatchRepository, max_pixels: int, *, origins: int = 0) -> None:
        """``origins``: bytes of signed files that are kept beside the pixels of one line; 0 where nothing is signed."""
        self._uploads, self._batches = uploads, batches
        # Here the "tenant" is the batch: it has its own copies.
        self._pictures = Pictures(uploads, _Kept(batches), max_pixels, origins=origins)

    async def __call__(self, batch_id: str, line: Line) -> Order:
        """The whole order of a line of that batch."""
        named, order = line.wanted.pictures, line.wanted.order
        if not named:
            return order
        source = self._pictures.source(batch_id)
        request = order.request
        init = request.init
        if init is not None and named.image is not None:
            picture = await source.picture(named.image, "image")
            mask = None if named.mask is None else await source.mask(named.mask, drawn=True)
            init = replace(init, picture=picture, mask=mask)
        controls: list[ControlUse] = []
        for index, (use, name) in enumerate(zip(request.controls, named.controls, strict=True)):
            controls.append(replace(use, picture=await source.picture(name, f"controls[{index}].image")))
        references: list[ReferenceUse] = []
        for index, (shown, names) in enumerate(zip(request.references, named.references, strict=True)):
            # Named as the caller did: manifests tell of an input by its place.
            where = f"references[{index}]"
            single = index < len(named.single) and named.single[index]
            places = [f"{where}.image"] if single else [f"{where}.images[{each}]" for each in range(len(names))]
            several = [await source.picture(name, place) for name, place in zip(names, places, strict=True)]
            references.append(replace(shown, pictures=tuple(several)))
        whole = replace(request, init=init, controls=tuple(controls), references=tuple(references))
        return await self._pictures.trimmed(replace(order, request=whole, origins=source.origins))


class _Kept:
    """The copies of batches, as an `InputSource`."""

    __slots__ = ("_batches",)

    def __init__(self, batches: BatchRepository) -> None:
        self._batches = batches

    async def get(self, tenant: str, asset_id: str) -> bytes | None:
        data = await self._batches.input(tenant, asset_id)
        if data is None:
            msg = "A picture of the batch is gone."
            raise EngineFailure(msg)
        return data
