"""OpenAI's Images API, and servers that are compatible with it, by the official SDK, which retries nothing here."""

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import Preview, Progress, RunStats
from pipelines.contract.picture import Picture, Resize
from pipelines.contract.request import ImageRequest
from server.catalog.upstreams import Upstream
from server.domain.aside import aside
from server.domain.asset import Format
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.failures import UpstreamAmbiguous, UpstreamUnavailable
from server.domain.generation import Generation, Route, Usage
from server.egress.fetching import Fetcher
from server.providers import pixels
from server.providers.capabilities import Abilities, abilities
from server.providers.fetched import fetched
from server.providers.openai_errors import said, translated
from server.providers.received import received
from server.providers.sizes import Free, nearest, within
from server.providers.succession import Listed, Succession, day

if TYPE_CHECKING:
    from httpx import Response
    from openai import AsyncOpenAI
    from openai._legacy_response import LegacyAPIResponse
    from openai.types import ImagesResponse

_QUALITIES: Mapping[str, tuple[str, ...]] = {
    "standard": ("standard", "medium"),
    "hd": ("hd", "high"),
    "xhigh": ("xhigh", "high"),
    "max": ("max", "xhigh", "high"),
}
"""What a word becomes where it is not known: the first of these that is."""
_PARTIAL = ("image_generation.partial_image", "image_edit.partial_image")
_COMPLETED = ("image_generation.completed", "image_edit.completed")


class Answer(msgspec.Struct, frozen=True):
    """What came back, still encoded."""

    images: tuple[bytes, ...]
    request_id: str | None
    usage: Usage


class OpenAIProvider:
    """One upstream of kind openai. ``heard`` is told the headers of every answer."""

    __slots__ = ("_client", "_clock", "_fetcher", "_heard", "_key", "_opening", "_succession", "_upstream")

    def __init__(
        self,
        upstream: Upstream,
        key: str,
        *,
        succession: Succession,
        fetcher: Fetcher,
        clock: Clock,
        heard: Callable[[Mapping[str, str]], None] = lambda _headers: None,
    ) -> None:
        self._upstream, self._key, self._succession, self._fetcher = upstream, key, succession, fetcher
        self._clock, self._heard = clock, heard
        self._client: AsyncOpenAI | None = None
        self._opening = asyncio.Lock()

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """One attempt, or more if the configured model turns out to be gone and has successors."""
        return await self._succession.asked(self._upstream.means(request.model), lambda model: self._made(request, call, model))

    def wait_seconds(self, pixel_steps: int = 0) -> float:  # noqa: ARG002 - the protocol's signature
        """There is no telling."""
        return 1.0

    async def listed(self) -> tuple[Listed, ...]:
        """The upstream's models, with the day on which each will be shut down where it says so."""
        client = await self._opened()
        async with self._translating():
            page = await client.models.list()
        return tuple(Listed(model.id, day(getattr(model, "shutdown_date", None))) for model in page.data)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _made(self, request: ImageRequest, call: Call, model: str) -> Generation:
        began = time.perf_counter()
        can = abilities(self._upstream, model)
        size = _size(request, can)
        shown = None if request.init is None else await asyncio.to_thread(pixels.canvas, request, request.init)
        arguments = _arguments(request, call, model, can, size)
        frame = None if shown is None else pixels.window(size, (request.width, request.height))
        if shown is not None and frame is not None:
            arguments |= await asyncio.to_thread(_parts, shown, frame)
        alpha = call.wishes.background == "transparent"
        partials = _partials(request, can)
        answer = await (self._streamed(arguments, partials, request, call, frame) if partials else self._plain(arguments))
        if len(answer.images) != len(request.seeds):
            msg = f"The upstream {self._upstream.name!r} made {len(answer.images)} pictures of {len(request.seeds)}."
            raise UpstreamAmbiguous(msg)
        pictures = [await received(data, request, shown, frame=frame, alpha=alpha) for data in answer.images]
        seconds = time.perf_counter() - began
        return Generation(
            model=request.model,
            pictures=tuple(pictures),
            seeds=request.seeds,
            stats=RunStats(0.0, 0.0, seconds, 0.0, 0, 1.0),
            route=Route(self._upstream.name, model, request_ids=(answer.request_id,) if answer.request_id else ()),
            usage=answer.usage,
        )

    async def _plain(self, arguments: dict[str, Any]) -> Answer:
        client = await self._opened()
        async with self._translating():
            raw: LegacyAPIResponse[ImagesResponse] | Response
            if "image" in arguments:
                raw = await client.images.with_raw_response.edit(**arguments)
            else:
                raw = await _posted(client, arguments)
            self._heard(raw.headers)
            found = await aside(len(raw.content), lambda: _parsed(raw.content, self._upstream.name))
        data = found.get("data") if isinstance(found.get("data"), list) else []
        made = [await self._image(item) for item in data or [] if isinstance(item, dict)]
        return Answer(tuple(made), raw.headers.get("x-request-id"), _usage(found.get("usage")))

    async def _streamed(
        self, arguments: dict[str, Any], partials: int, request: ImageRequest, call: Call, frame: pixels.Window | None
    ) -> Answer:
        arguments = {**arguments, "stream": True, "partial_images": partials}
        done: list[bytes] = []
        usage = Usage()
        shown = 0
        images = (await self._opened()).images.with_raw_response
        async with self._translating():
            raw = await (images.edit(**arguments) if "image" in arguments else images.generate(**arguments))
            self._heard(raw.headers)
            stream: Any = raw.parse()
            try:
                async for event in stream:
                    # Events of other kinds may come any day, and are none of ours.
                    kind = getattr(event, "type", None)
                    if kind in _PARTIAL:
                        shown += 1
                        step = min(request.sampling.steps, shown * request.preview_every)
                        call.emit(Progress(request.id, 0, step, request.sampling.steps))
                        sent = getattr(event, "b64_json", None)
                        if (picture := await asyncio.to_thread(_shown, sent, request, frame)) is not None:
                            call.emit(Preview(request.id, 0, step, picture))
                    elif kind in _COMPLETED:
                        done.append(await asyncio.to_thread(_decoded, event.b64_json))
                        usage = _usage(_plain_usage(getattr(event, "usage", None)))
            finally:
                await stream.close()
        if not done:
            msg = f"The upstream {self._upstream.name!r} ended its stream without a picture; it may have been charged."
            raise UpstreamAmbiguous(msg)
        return Answer(tuple(done), raw.headers.get("x-request-id"), usage)

    async def _image(self, item: dict[str, Any]) -> bytes:
        if item.get("b64_json"):
            return await aside(len(item["b64_json"]), lambda: _decoded(item["b64_json"]))
        if isinstance(item.get("url"), str):
            return await fetched(self._fetcher, item["url"])
        msg = f"The upstream {self._upstream.name!r} answered without a picture; it may have been charged."
        raise UpstreamAmbiguous(msg)

    async def _opened(self) -> "AsyncOpenAI":
        async with self._opening:
            if self._client is None:
                upstream = self._upstream

                def opened() -> "AsyncOpenAI":
                    # A second of importing, and not for those who have no key.
                    from openai import AsyncOpenAI, Timeout  # noqa: PLC0415

                    # One attempt's deadline is kept outside; this one is for connections that nobody waits for any more.
                    timeout = Timeout(upstream.timeouts.attempt + 5.0, connect=upstream.timeouts.connect)
                    return AsyncOpenAI(api_key=self._key or "none", base_url=upstream.base_url, max_retries=0, timeout=timeout)

                self._client = await asyncio.to_thread(opened)
        return self._client

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[None]:
        """Errors of the SDK inside the block become ours. What was sent and not answered is ambiguous."""
        from openai import APIConnectionError, APIError, APIStatusError  # noqa: PLC0415

        name = self._upstream.name
        try:
            yield
        except AquatintError:
            raise
        except APIStatusError as error:
            self._heard(error.response.headers)
            raise translated(error.status_code, error.body, error.response.headers, self._clock.time(), name) from error
        except APIConnectionError as error:
            cause = type(error.__cause__).__name__
            if cause in ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"):
                msg = f"The upstream {name!r} cannot be reached: {error.__cause__ or error}"
                raise UpstreamUnavailable(msg) from error
            msg = f"The connection to the upstream {name!r} ended without an answer ({cause}); it may have been charged."
            raise UpstreamAmbiguous(msg) from error
        except APIError as error:
            if isinstance(error.body, dict):  # an error event inside a stream
                raise translated(500, error.body, {}, self._clock.time(), name) from error
            msg = f"The upstream {name!r} answered with something that cannot be read; it may have been charged."
            raise UpstreamAmbiguous(msg) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # What the SDK raises when an answer is not what it has to be: JSON that ends, events without their fields.
            msg = f"The upstream {name!r} answered with something that cannot be read: {said(error)}; it may have been charged."
            raise UpstreamAmbiguous(msg) from error


async def _posted(client: "AsyncOpenAI", arguments: Mapping[str, Any]) -> "Response":
    """What `images.generate` answers, before anybody has read it.

    That method holds every argument against its type first, which takes as long as all else that the SDK does.
    """
    from httpx import Response  # noqa: PLC0415 - as late as the SDK

    body = dict(arguments)
    headers = body.pop("extra_headers")
    return await client.post("/images/generations", cast_to=Response, body=body, options={"headers": headers})


def _arguments(request: ImageRequest, call: Call, model: str, can: Abilities, size: tuple[int, int]) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": model,
        "prompt": request.styled_prompt or "Another picture like this one.",
        "n": len(request.seeds),
        "size": f"{size[0]}x{size[1]}",
        "extra_headers": {"Idempotency-Key": f"aquatint-{request.id}"},
    }
    quality = call.wishes.quality.lower()
    word = next((each for each in _QUALITIES.get(quality, (quality,)) if each in can.qualities), None)
    if word is not None:
        arguments["quality"] = word
    if can.transparent:
        # What is worked on here is encoded here: it should come without loss. What is not may be delivered as it comes.
        form = call.delivery.format if _untouched(request, call, size) else Format.PNG
        arguments["output_format"] = form.value
        if form is not Format.PNG and call.delivery.quality is not None:
            arguments["output_compression"] = call.delivery.quality
        if call.wishes.background in ("transparent", "opaque"):
            arguments["background"] = call.wishes.background
    else:
        arguments["response_format"] = "b64_json"
    return arguments


def _untouched(request: ImageRequest, call: Call, size: tuple[int, int]) -> bool:
    masked = request.init is not None and request.init.inpaints and request.init.keep_unmasked
    return not masked and size == request.finished_size == call.delivery.size(*request.finished_size)


def _parts(shown: pixels.Canvas, frame: pixels.Window) -> dict[str, Any]:
    """The files of an edit: the picture, and where it may be repainted, on the upstream's canvas."""
    parts: dict[str, Any] = {"image": ("image.png", pixels.png(frame.shown(shown.picture)), "image/png")}
    if shown.mask is not None:
        parts["mask"] = ("mask.png", pixels.png(pixels.seen_through(frame.shown(shown.mask))), "image/png")
    return parts


def _size(request: ImageRequest, can: Abilities) -> tuple[int, int]:
    sizes = can.sizes or Free()
    if isinstance(sizes, Free):
        return within(request.width, request.height, sizes)
    return nearest(request.width, request.height, sizes)


def _partials(request: ImageRequest, can: Abilities) -> int:
    """Previews to ask for: the stream has no image index, so only of a single image."""
    if not request.preview_every or len(request.seeds) > 1:
        return 0
    return min(can.previews, (request.sampling.steps - 1) // request.preview_every)


def _parsed(content: bytes, road: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        msg = f"The upstream {road!r} answered with something that is no JSON; it may have been charged."
        raise UpstreamAmbiguous(msg) from error
    return found if isinstance(found, dict) else {}


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        msg = "The upstream's answer has no picture where one must be; it may have been charged."
        raise UpstreamAmbiguous(msg)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        msg = "The upstream's picture is no base64; it may have been charged."
        raise UpstreamAmbiguous(msg) from error


def _shown(text: object, request: ImageRequest, frame: pixels.Window | None) -> Picture | None:
    """A partial image, in the size and shape that were asked for; None if it cannot be read, for what counts is still to come."""
    try:
        came = pixels.decoded(_decoded(text))
    except UpstreamAmbiguous:
        return None
    size = (request.width, request.height)
    return pixels.picture_of(pixels.framed(pixels.image_of(pixels.cut(came, frame)), size, Resize.CROP))


def _plain_usage(usage: object) -> object:
    dump = getattr(usage, "model_dump", None)
    return dump() if callable(dump) else usage


def _usage(told: object) -> Usage:
    if not isinstance(told, dict):
        return Usage()
    details = told.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    images = _count(details.get("image_tokens"))
    text = _count(details.get("text_tokens")) if details else _count(told.get("input_tokens"))
    return Usage(input_text_tokens=text, input_image_tokens=images, output_tokens=_count(told.get("output_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
