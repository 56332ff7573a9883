"""Stability's v2beta REST API. One picture for each request; which operation it is follows from the request and the model.

generate/ultra, core, sd3    a prompt, or a prompt and a picture
edit/inpaint, erase          a mask, with or without words
edit/outpaint                margins
control/sketch, structure, style         models of these names: the picture is what to follow
upscale/fast, conservative, creative     models of these names: the picture is what to enlarge
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import RunStats
from pipelines.contract.request import ImageRequest, Init
from server.catalog.upstreams import Upstream
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.failures import (
    ModerationBlocked,
    UpstreamAmbiguous,
    UpstreamMisconfigured,
    UpstreamModelGone,
    UpstreamUnavailable,
)
from server.domain.generation import Generation, Route
from server.providers import pixels
from server.providers.http import HttpUpstream, Reply
from server.providers.lane import Sleep
from server.providers.openai_errors import said
from server.providers.received import received
from server.providers.refusals import refusal
from server.providers.sizes import ratio_name
from server.providers.succession import Listed, Succession

RATIOS = ("21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21")
POLL_SECONDS = 10.0
"""They ask not to be polled more often."""
_MOST_SEED = 4_294_967_294
_MOST_POLL_FAILURES = 5
_ROOT = "/v2beta/stable-image"
_CONTROLS = ("sketch", "structure", "style")
_UPSCALERS = ("fast", "conservative", "creative")
_FILTERED = "CONTENT_FILTERED"


class Operation(msgspec.Struct, frozen=True):
    """One address and its form."""

    path: str
    fields: Mapping[str, str]
    files: Mapping[str, bytes] = {}


class StabilityProvider:
    """One upstream of kind stability. ``sleep`` and ``poll`` pace the asking for results that are not there yet."""

    __slots__ = ("_clock", "_http", "_poll", "_sleep", "_succession", "_upstream")

    def __init__(
        self,
        upstream: Upstream,
        key: str,
        *,
        succession: Succession,
        clock: Clock,
        heard: Callable[[Mapping[str, str]], None] = lambda _headers: None,
        sleep: Sleep = asyncio.sleep,
        poll: float = POLL_SECONDS,
    ) -> None:
        headers = {"authorization": f"Bearer {key}", "stability-client-id": "aquatint"}
        self._http = HttpUpstream(upstream, headers, heard)
        self._upstream, self._succession, self._clock, self._sleep, self._poll = upstream, succession, clock, sleep, poll

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """One attempt at one picture."""
        return await self._succession.asked(self._upstream.means(request.model), lambda model: self._made(request, call, model))

    def wait_seconds(self, pixel_steps: int = 0) -> float:  # noqa: ARG002 - the protocol's signature
        """There is no telling."""
        return 1.0

    async def listed(self) -> tuple[Listed, ...]:
        """It has no list of these."""
        return ()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _made(self, request: ImageRequest, call: Call, model: str) -> Generation:
        began = time.perf_counter()
        shown = None if request.init is None else await asyncio.to_thread(pixels.canvas, request, request.init)
        work = await asyncio.to_thread(operation, request, call, model, shown)
        # A form even without a file: it is what they take.
        parts: dict[str, Any] = {name: (None, value) for name, value in work.fields.items()}
        parts |= {name: (f"{name}.png", data, "image/png") for name, data in work.files.items()}
        headers = {"accept": "image/*", "idempotency-key": f"aquatint-{request.id}"}
        if work.path.endswith("/creative"):
            headers["accept"] = "application/json"
        reply = await self._http.send("POST", work.path, headers=headers, files=parts)
        if reply.status != HTTPStatus.OK:
            refused = self._refusal(reply)
            if isinstance(refused, UpstreamModelGone) and work.path != _address(model):
                # What is done at an address of its own says nothing of the model.
                raise UpstreamMisconfigured(refused.message)
            raise refused
        started = reply.json().get("id") if "json" in reply.headers.get("content-type", "") else None
        if isinstance(started, str):
            reply = await self._result(started)
        if reply.headers.get("finish-reason") == _FILTERED:
            msg = f"The upstream {self._upstream.name!r} does not show the picture that it made: it was filtered."
            raise ModerationBlocked(msg)
        seed = _seed(reply.headers.get("seed"), request.seeds[0])
        mask = shown if work.path.split("/")[-2] == "edit" else None
        done = await received(reply.content, request, mask)
        name = reply.headers.get("x-request-id")
        return Generation(
            model=request.model,
            pictures=(done,),
            seeds=(seed,),
            stats=RunStats(0.0, 0.0, time.perf_counter() - began, 0.0, 0, 1.0),
            route=Route(self._upstream.name, work.path.removeprefix(f"{_ROOT}/"), request_ids=(name,) if name else ()),
        )

    async def _result(self, started: str) -> Reply:
        """Wait for a result that is made meanwhile. It is paid for already: a failed look is only looked again."""
        if not started.isalnum():
            msg = f"The upstream {self._upstream.name!r} named its result in a way that cannot be."
            raise UpstreamAmbiguous(msg)
        failures = 0
        while True:
            await self._sleep(self._poll)
            try:
                reply = await self._http.send("GET", f"/v2beta/results/{started}", headers={"accept": "image/*"})
            except (UpstreamUnavailable, UpstreamAmbiguous):
                reply = Reply(int(HTTPStatus.SERVICE_UNAVAILABLE), {}, b"")
            if reply.status == HTTPStatus.OK:
                return reply
            if reply.status == HTTPStatus.ACCEPTED:
                failures = 0
                continue
            failures += 1
            if reply.status not in (HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)) or failures >= _MOST_POLL_FAILURES:
                refusal = self._refusal(reply)
                if isinstance(refusal, ModerationBlocked):
                    raise refusal
                msg = f"The result was started and cannot be had: {refusal.message}"
                raise UpstreamAmbiguous(msg)

    def _refusal(self, reply: Reply) -> AquatintError:
        told = reply.json()
        errors = told.get("errors")
        words = said("; ".join(map(str, errors)) if isinstance(errors, list) else told.get("message")) or f"HTTP {reply.status}"
        name, road = str(told.get("name") or ""), self._upstream.name
        if reply.status == HTTPStatus.FORBIDDEN and name == "content_moderation":
            msg = f"The upstream {road!r} does not allow the request: {words}"
            return ModerationBlocked(msg)
        return refusal(reply.status, words, reply.headers, self._clock.time(), road)


def operation(request: ImageRequest, call: Call, model: str, shown: pixels.Canvas | None) -> Operation:
    """The address and form that ``request`` is there; ``shown`` is its picture at the request's size."""
    prompt, init = request.styled_prompt, request.init
    if init is not None and init.strength == 0 and model not in _UPSCALERS:
        model = "fast"
    fields = {
        "output_format": "png" if model.startswith("sd3") and call.delivery.format.value == "webp" else call.delivery.format.value
    }
    if model != "fast":
        # 0 is random there.
        fields["seed"] = str(
            request.seeds[0] % _MOST_SEED + 1 if "seed" not in call.wishes.said else request.seeds[0] % (_MOST_SEED + 1)
        )
    words = {"prompt": prompt} if prompt else {}
    against = {"negative_prompt": request.styled_negative} if request.styled_negative and model != "fast" else {}
    if init is None or shown is None:
        ratio = {"aspect_ratio": ratio_name(request.width, request.height, RATIOS)}
        return Operation(_address(model), {**fields, **words, **against, **ratio, **_own(request, call, model)})
    image = {"image": pixels.png(shown.picture)}
    if model in _CONTROLS:
        strength = {"fidelity" if model == "style" else "control_strength": f"{init.strength:g}"} if _named(call) else {}
        return Operation(_address(model), {**fields, **words, **against, **strength}, image)
    if model in _UPSCALERS:
        creativity = {"creativity": f"{init.strength:g}"} if _named(call) and model != "fast" else {}
        told = {} if model == "fast" else {**words, **against, **creativity}
        return Operation(_address(model), {**fields, **told}, {"image": pixels.png(pixels.image_of(init.picture))})
    if shown.mask is not None:
        return _repainted(init, {**fields}, words, against, image | {"mask": pixels.png(shown.mask)})
    mode = {"mode": "image-to-image"} if model.startswith("sd3") else {}
    start = {"strength": f"{init.strength:g}"}
    return Operation(_address(model), {**fields, **words, **against, **mode, **start, **_own(request, call, model)}, image)


def _repainted(
    init: Init, fields: dict[str, str], words: dict[str, str], against: dict[str, str], files: dict[str, bytes]
) -> Operation:
    margins = init.outpaint
    if margins is not None and init.mask is None and max(margins.left, margins.right, margins.top, margins.bottom) <= 2000:  # noqa: PLR2004 - theirs
        sides = {"left": margins.left, "right": margins.right, "up": margins.top, "down": margins.bottom}
        grown = {side: str(pixels_) for side, pixels_ in sides.items() if pixels_}
        picture = pixels.png(pixels.image_of(init.picture))
        return Operation(f"{_ROOT}/edit/outpaint", {**fields, **words, **grown}, {"image": picture})
    if not words:
        return Operation(f"{_ROOT}/edit/erase", fields, files)
    # The mask is exact already: they would widen it by 5.
    return Operation(f"{_ROOT}/edit/inpaint", {**fields, **words, **against, "grow_mask": "0"}, files)


def _address(model: str) -> str:
    """Where pictures are made with it."""
    if model in _CONTROLS:
        return f"{_ROOT}/control/{model}"
    if model in _UPSCALERS:
        return f"{_ROOT}/upscale/{model}"
    return f"{_ROOT}/generate/{'sd3' if model.startswith('sd3') else model}"


def _own(request: ImageRequest, call: Call, model: str) -> dict[str, str]:
    """What only the sd3 address takes."""
    if not model.startswith("sd3"):
        return {}
    guided = {"guidance", "guidance_scale"} & set(call.wishes.said)
    return {"model": model, **({"cfg_scale": f"{request.sampling.guidance_scale:g}"} if guided else {})}


def _named(call: Call) -> bool:
    return "strength" in call.wishes.said


def _seed(told: str | None, sent: int) -> int:
    return int(told) if told is not None and told.isdigit() else sent
