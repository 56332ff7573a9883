"""Replicate's predictions: made with `Prefer: wait`, then looked at until they are over, cancelled when nobody wants them."""

import asyncio
import base64
import time
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from pipelines.contract.errors import AquatintError
from pipelines.contract.messages import Progress, RunStats
from pipelines.contract.request import ImageRequest
from server.catalog.upstreams import Upstream
from server.domain.call import Call
from server.domain.clock import Clock
from server.domain.failures import ModerationBlocked, UpstreamAmbiguous, UpstreamFailure, UpstreamUnavailable
from server.domain.generation import Generation, Route, Usage
from server.egress.fetching import Fetcher
from server.providers import percent, pixels
from server.providers.fetched import fetched
from server.providers.http import HttpUpstream, Reply
from server.providers.lane import Sleep
from server.providers.openai_errors import said
from server.providers.received import received
from server.providers.refusals import refusal
from server.providers.sizes import ratio_name
from server.providers.succession import Listed, Succession

RATIOS = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21")
WAIT_SECONDS = 2
"""For the answer of the first request: fast models are done by then. They allow 60, but until it answers a prediction has no name
by which it could be cancelled."""
POLL_SECONDS = 1.0
_CANCEL_SECONDS = 10.0
_MOST_POLL_FAILURES = 5
_OVER = ("succeeded", "failed", "canceled", "aborted")
_FILTERED = ("nsfw", "safety", "sensitive", "flagged")

Tell = Callable[[Mapping[str, Any]], None]
"""Hears of a prediction that is not over, as it is at the moment."""


class ReplicateProvider:
    """One upstream of kind replicate. ``sleep`` and ``poll`` pace the looking."""

    __slots__ = ("_clock", "_ending", "_fetcher", "_http", "_poll", "_sleep", "_succession", "_upstream")

    def __init__(
        self,
        upstream: Upstream,
        key: str,
        *,
        succession: Succession,
        fetcher: Fetcher,
        clock: Clock,
        heard: Callable[[Mapping[str, str]], None] = lambda _headers: None,
        sleep: Sleep = asyncio.sleep,
        poll: float = POLL_SECONDS,
    ) -> None:
        self._http = HttpUpstream(upstream, {"authorization": f"Bearer {key}"}, heard)
        self._upstream, self._succession, self._fetcher, self._clock = upstream, succession, fetcher, clock
        self._sleep, self._poll = sleep, poll
        self._ending: set[asyncio.Task[None]] = set()
        """What is being cancelled there; nobody waits for it but `close`."""

    async def generate(self, request: ImageRequest, call: Call) -> Generation:
        """One attempt at one picture; cancelling the task cancels the prediction."""
        return await self._succession.asked(self._upstream.means(request.model), lambda model: self._made(request, call, model))

    def wait_seconds(self, pixel_steps: int = 0) -> float:  # noqa: ARG002 - the protocol's signature
        """There is no telling."""
        return 1.0

    async def listed(self) -> tuple[Listed, ...]:
        """It has no list with ends."""
        return ()

    async def close(self) -> None:
        """Close the connections, once what is being cancelled is cancelled."""
        if self._ending:
            await asyncio.wait(self._ending)
        await self._http.close()

    async def _made(self, request: ImageRequest, call: Call, model: str) -> Generation:
        began = time.perf_counter()
        shown = None if request.init is None else await asyncio.to_thread(pixels.canvas, request, request.init)
        inputs = await asyncio.to_thread(_inputs, request, call, self._upstream.inputs or {}, shown)
        prediction = await self._over(await self._begun(model, inputs, request), _teller(request, call))
        output = prediction.get("output")
        output = output[0] if isinstance(output, list) and output else output
        if not isinstance(output, str):
            msg = f"The upstream {self._upstream.name!r} finished without a picture; it may have been charged."
            raise UpstreamAmbiguous(msg)
        data = await self._file(output)
        done = await received(data, request, shown)
        metrics = prediction.get("metrics")
        took = metrics.get("predict_time") if isinstance(metrics, dict) else None
        return Generation(
            model=request.model,
            pictures=(done,),
            seeds=request.seeds,
            stats=RunStats(0.0, 0.0, time.perf_counter() - began, 0.0, 0, 1.0),
            route=Route(self._upstream.name, model, request_ids=(str(prediction.get("id")),)),
            usage=Usage(gpu_seconds=float(took) if isinstance(took, int | float) else 0.0),
        )

    async def _begun(self, model: str, inputs: dict[str, Any], request: ImageRequest) -> dict[str, Any]:
        """The prediction's beginning; who leaves before it has a name has it cancelled as soon as it has one."""
        creating = asyncio.create_task(self._created(model, inputs, request))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            self._end(self._abandon(creating))
            raise

    async def _created(self, model: str, inputs: dict[str, Any], request: ImageRequest) -> dict[str, Any]:
        name, _, version = model.partition(":")
        body: dict[str, Any] = {"input": inputs}
        path = f"/v1/models/{name}/predictions"
        if version or "/" not in name:
            path, body = "/v1/predictions", {"version": version or name, **body}
        wait = max(1, min(WAIT_SECONDS, int(self._upstream.timeouts.attempt)))
        headers = {"prefer": f"wait={wait}", "idempotency-key": f"aquatint-{request.id}"}
        reply = await self._http.send("POST", path, headers=headers, json=body)
        if not HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
            raise self._refusal(reply)
        prediction = reply.json()
        if not isinstance(prediction.get("id"), str) or not prediction["id"].isalnum():
            msg = f"The upstream {self._upstream.name!r} answered with something that is no prediction; it may have been charged."
            raise UpstreamAmbiguous(msg)
        return prediction

    async def _over(self, prediction: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """Wait until it is over; whoever leaves earlier, by deadline or by cancelling, cancels it there."""
        place = _place(prediction)
        try:
            prediction = await self._followed(place, prediction, tell)
        except BaseException:
            self._end(self._cancel(place))
            raise
        if prediction["status"] == "succeeded":
            return prediction
        words = said(prediction.get("error")) or str(prediction["status"])
        if any(word in words.lower() for word in _FILTERED):
            msg = f"The upstream {self._upstream.name!r} does not allow the request: {words}"
            raise ModerationBlocked(msg)
        if prediction["status"] == "failed":
            msg = f"The model failed at the upstream {self._upstream.name!r}: {words}"
            raise UpstreamFailure(msg)
        msg = f"The prediction was cancelled at the upstream {self._upstream.name!r}."
        raise UpstreamUnavailable(msg)

    async def _followed(self, place: str, prediction: dict[str, Any], tell: Tell) -> dict[str, Any]:
        failures = 0
        while prediction.get("status") not in _OVER:
            tell(prediction)
            await self._sleep(self._poll)
            try:
                reply = await self._http.send("GET", place)
            except (UpstreamUnavailable, UpstreamAmbiguous):
                reply = Reply(int(HTTPStatus.SERVICE_UNAVAILABLE), {}, b"")
            found = reply.json()
            if reply.status == HTTPStatus.OK and "status" in found:
                prediction, failures = found, 0
                continue
            failures += 1
            if failures >= _MOST_POLL_FAILURES:
                msg = f"The prediction was started and cannot be looked at any more: HTTP {reply.status}."
                raise UpstreamAmbiguous(msg)
        return prediction

    def _end(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"cancel at {self._upstream.name}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _abandon(self, creating: asyncio.Task[dict[str, Any]]) -> None:
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                prediction = await creating
        except (TimeoutError, AquatintError):
            return  # there is none, or it never told its name
        if prediction.get("status") not in _OVER:
            await self._cancel(_place(prediction))

    async def _cancel(self, place: str) -> None:
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self._http.send("POST", f"{place}/cancel")
        except (TimeoutError, AquatintError):
            return  # it ends there by itself

    async def _file(self, output: str) -> bytes:
        try:
            if output[:5].lower() == "data:":
                return await asyncio.to_thread(_from_data_url, output)
            found = urlsplit(output).hostname
        except ValueError as error:
            msg = f"The upstream {self._upstream.name!r} answered with a picture that cannot be read; it may have been charged."
            raise UpstreamAmbiguous(msg) from error
        if not found:
            msg = f"The upstream {self._upstream.name!r} answered with text instead of a picture; it may have been charged."
            raise UpstreamAmbiguous(msg)
        return await fetched(self._fetcher, output)

    def _refusal(self, reply: Reply) -> AquatintError:
        told = reply.json()
        words = said(told.get("detail") or told.get("title")) or f"HTTP {reply.status}"
        return refusal(reply.status, words, reply.headers, self._clock.time(), self._upstream.name)


def _inputs(request: ImageRequest, call: Call, names: Mapping[str, str], shown: pixels.Canvas | None) -> dict[str, Any]:
    """What the model is told, by its own names for it."""
    sampling, saids = request.sampling, set(call.wishes.said)
    known: dict[str, Any] = {
        "prompt": request.styled_prompt,
        "aspect_ratio": ratio_name(request.width, request.height, RATIOS),
        "width": request.width,
        "height": request.height,
        "seed": request.seeds[0] & 0x7FFFFFFF,
    }
    if request.styled_negative:
        known["negative_prompt"] = request.styled_negative
    if "steps" in saids:
        known["steps"] = sampling.steps
    if saids & {"guidance", "guidance_scale"}:
        known["guidance"] = sampling.guidance_scale
    if shown is not None:
        known["image"] = _data_url(pixels.png(shown.picture))
        if request.init is not None and "strength" in saids:
            known["strength"] = request.init.strength
        if shown.mask is not None:
            known["mask"] = _data_url(pixels.png(shown.mask))
    return {names[option]: value for option, value in known.items() if option in names}


def _teller(request: ImageRequest, call: Call) -> Tell:
    """Makes progress of what a prediction's logs say; a model may write several bars, and none runs backwards."""
    steps, most = request.sampling.steps, 0

    def tell(prediction: Mapping[str, Any]) -> None:
        nonlocal most
        step = min(int(percent.done(prediction.get("logs")) * steps), steps - 1)
        if step > most:
            most = step
            call.emit(Progress(request.id, 0, step, steps))

    return tell


def _place(prediction: Mapping[str, Any]) -> str:
    return f"/v1/predictions/{prediction['id']}"


def _from_data_url(url: str) -> bytes:
    """What is in it; raises `ValueError`."""
    head, comma, content = url.partition(",")
    if not comma:
        msg = "there is no comma in it"
        raise ValueError(msg)
    if head.lower().endswith(";base64"):
        return base64.b64decode(unquote_to_bytes(content), validate=True)
    return unquote_to_bytes(content)


def _data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
