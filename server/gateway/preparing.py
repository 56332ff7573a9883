"""Control images are made of ordinary pictures before the engine hears of the request."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from msgspec.structs import replace

from pipelines.contract.control import ControlUse
from pipelines.contract.errors import AquatintError
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.preprocessing import RESOLUTION, Options, find
from pipelines.contract.request import ImageRequest
from server.domain.call import Call
from server.domain.generation import Generation
from server.providers.provider import Provider

KEPT_BYTES = 128 << 20
"""Control images that are kept, in case the same picture comes again."""

Key = tuple[str, tuple[tuple[str, int | float], ...], bytes]


class Preprocesses(Protocol):
    """Makes control images, as the fleet does."""

    async def preprocess(
        self, preprocessor: str, picture: Picture, options: Options, *, deadline: float | None = None
    ) -> Picture:
        """The control image of ``picture``."""
        ...

    def identity(self, preprocessor: str) -> str:
        """What tells the weights in use from others that the preprocessor could have."""
        ...


class Prepared:
    """A provider whose requests may ask for preprocessors: each control's picture is replaced by its control image.

    Those of one request are made at the same time, equal ones once; the latest are kept, by the content of their pictures.
    """

    __slots__ = ("_bytes", "_kept", "_kept_bytes", "_preprocesses", "_provider")

    def __init__(self, provider: Provider, preprocesses: Preprocesses, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._provider = provider
        self._preprocesses = preprocesses
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[Key, Picture] = OrderedDict()
        self._bytes = 0

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """Make the control images, then run ``request``."""
        if any(use.preprocessor is not None for use in request.controls):
            request = await self._prepared(request, call)
        return await self._provider.generate(request, call)

    def wait_seconds(self, pixel_steps: int = 0) -> float:
        """The provider's."""
        return self._provider.wait_seconds(pixel_steps)

    async def _prepared(self, request: ImageRequest, call: Call) -> ImageRequest:
        wanted: dict[Key, tuple[int, ControlUse, Options]] = {}
        keys: dict[int, Key] = {}
        for index, use in enumerate(request.controls):
            if use.preprocessor is not None:
                options = _options(use, request)
                with _naming(index):
                    keys[index] = await self._key(use, options)
                wanted.setdefault(keys[index], (index, use, options))
        # Held here too: what is kept may be thrown out while the others are being made.
        made = {key: picture for key in wanted if (picture := self._recall(key)) is not None}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {key: group.create_task(self._make(*work, call)) for key, work in wanted.items() if key not in made}
        except* AquatintError as errors:
            raise _first(errors) from None
        for key, task in tasks.items():
            made[key] = task.result()
            self._keep(key, made[key])
        controls = tuple(
            replace(use, picture=made[keys[index]], preprocessor=None, preprocessor_options={}) if index in keys else use
            for index, use in enumerate(request.controls)
        )
        return replace(request, controls=controls)

    async def _make(self, index: int, use: ControlUse, options: Options, call: Call) -> Picture:
        with _naming(index):
            return await self._preprocesses.preprocess(use.preprocessor or "", use.picture, options, deadline=call.deadline)

    async def _key(self, use: ControlUse, options: Options) -> Key:
        picture, name = use.picture, find(use.preprocessor or "").id
        start = f"{picture.width} {picture.height} {picture.mode} {self._preprocesses.identity(name)} "
        digest = await asyncio.to_thread(lambda: hashlib.sha256(start.encode() + picture.data).digest())
        return name, tuple(sorted(options.items())), digest

    def _recall(self, key: Key) -> Picture | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _keep(self, key: Key, picture: Picture) -> None:
        if len(picture.data) > self._kept_bytes:
            return
        replaced = self._kept.pop(key, None)
        self._bytes += len(picture.data) - (len(replaced.data) if replaced else 0)
        self._kept[key] = picture
        while self._bytes > self._kept_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.data)


def _options(use: ControlUse, request: ImageRequest) -> Options:
    """Those of ``use``; where it names no resolution, the one at which the control image needs no scaling afterwards."""
    if RESOLUTION.name in use.preprocessor_options:
        return use.preprocessor_options
    across, down = request.width / use.picture.width, request.height / use.picture.height
    factor = min(across, down) if use.resize is Resize.FILL else max(across, down)
    side = round(min(use.picture.width, use.picture.height) * factor)
    return {**use.preprocessor_options, RESOLUTION.name: int(min(max(side, RESOLUTION.least), RESOLUTION.most))}


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Errors inside the block name the control that they are about."""
    try:
        yield
    except AquatintError as error:
        if error.param is not None:
            error.param = f"controls[{index}].{error.param.replace('options.', 'preprocessor_options.', 1)}"
        raise


def _first(errors: ExceptionGroup[AquatintError]) -> AquatintError:
    """The first one; it cancelled the others."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if not isinstance(found, AquatintError):
        raise found
    return found
