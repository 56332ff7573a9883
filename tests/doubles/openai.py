"""OpenAI's Images API as a standalone double: the real wire, no picture worth looking at, faults on demand.

    python -m tests.doubles.openai --port 0        prints "listening on http://127.0.0.1:PORT"

Speaks generations, edits (multipart), streams with partial images, the list of models and moderations. Control:

    POST /_double/faults   {"faults": ["429", "500"]}: of the next requests, one each
    POST /_double/models   {"models": [{"id": ..., "shutdown_date": ...}]}: what there is; other names are unknown
    POST /_double/scripted {"flagged": {"word": ["violence"]}}: what moderations says of inputs with that word
    POST /_double/limits   {"remaining": 0, "reset": "30s"}: rate-limit headers of every answer
    GET  /_double/ledger   attempts, charges, requests
    POST /_double/reset

A prompt may carry its own fault: ``[fault:NAME]``, or ``[fault:NAME*2]`` for the first two attempts. Faults: see `FAULTS`.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import signal
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

sys.path.insert(0, str(Path(__file__).parent))
from ledger import Ledger
from wire import Connection, Reply, Request, Wire

FAULTS = {
    "429": "429 with Retry-After",
    "500": "a server error",
    "504": "a gateway that lost patience while the work was done",
    "503-no-retry": "a server error with x-should-retry: false",
    "slow": "headers come late",
    "cut": "the stream, or the body, ends in the middle",
    "json": "broken JSON",
    "moderation": "moderation_blocked",
    "billing": "the spending limit is reached",
    "quota": "no credit",
    "key": "the key is refused",
    "type": "HTML with status 200",
    "reset": "connection reset",
    "hang": "no answer at all",
    "gone": "the model is unknown",
    "empty": "no picture in the answer",
    "not-a-picture": "bytes that are no picture",
    "partial": "partial images that are no pictures",
    "chatter": "events in the stream that nobody knows",
}
CHARGED = {"504", "cut", "json", "type", "reset", "hang", "empty", "not-a-picture"}
"""Faults after the work was done: the vendor's bill has it, whatever the client saw."""
KNOWN = [{"id": f"gpt-image-{name}"} for name in ("2.6-flare", "2.6-sunburst", "2.5-flare", "2", "1.5", "1-mini")]
COLOURS = ((200, 40, 40), (40, 160, 60), (50, 80, 200), (220, 180, 40))


class Double:
    def __init__(self, *, idempotent: bool = False, pause: float = 0.3) -> None:
        self.ledger = Ledger()
        self.idempotent, self.pause = idempotent, pause
        self.models: list[dict[str, Any]] | None = None
        self.flagged: dict[str, list[str]] = {}
        self.limits: dict[str, str] = {}
        self.wire = Wire(self.handle)

    async def handle(self, request: Request, connection: Connection) -> Reply | None:
        if request.path.startswith("/_double/"):
            return self._control(request)
        path = request.path.removeprefix("/v1")
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return failure(401, "invalid_request_error", "invalid_api_key", "You did not provide an API key.")
        match request.method, path:
            case "GET", "/models":
                return Reply.of({"object": "list", "data": [self._model(each) for each in self.models or KNOWN]})
            case "POST", "/moderations":
                return self._moderated(request)
            case "POST", "/images/generations":
                return await self._images(request, connection, request.json(), "image_generation")
            case "POST", "/images/edits":
                return await self._images(request, connection, self._fields(request), "image_edit")
        return failure(404, "invalid_request_error", None, f"Unknown address {request.path}")

    def _control(self, request: Request) -> Reply:
        told = request.json()
        match request.path.rpartition("/")[2]:
            case "faults":
                self.ledger.faults = list(told["faults"])
            case "models":
                self.models = told["models"]
            case "scripted":
                self.flagged = told["flagged"]
            case "limits":
                self.limits = {f"x-ratelimit-{name}-requests": str(value) for name, value in told.items()}
            case "reset":
                self.ledger.reset()
                self.models, self.flagged, self.limits = None, {}, {}
        return Reply.of(self.ledger.view())

    def _fields(self, request: Request) -> dict[str, Any]:
        form = request.form()
        fields: dict[str, Any] = {name: parts[0].decode() for name, parts in form.items() if name not in ("image", "mask")}
        for name in ("n", "partial_images", "output_compression"):
            if name in fields:
                fields[name] = int(fields[name])
        fields["stream"] = fields.get("stream") == "true"
        for name in ("image", "mask"):
            if name in form:
                with Image.open(io.BytesIO(form[name][0])) as image:
                    fields[name] = image.convert("RGBA")
        return fields

    async def _images(self, request: Request, connection: Connection, body: dict[str, Any], kind: str) -> Reply | None:
        ledger = self.ledger
        ledger.attempts += 1
        shown = {name: value for name, value in body.items() if not isinstance(value, Image.Image)}
        if isinstance(body.get("mask"), Image.Image):
            alpha = body["mask"].getchannel("A")
            shown["mask"] = {
                "size": body["mask"].size,
                "clear": alpha.histogram()[0],
                "box": alpha.point(lambda a: 255 - a).getbbox(),
            }
        if isinstance(body.get("image"), Image.Image):
            shown["image"] = {"size": body["image"].size}
        key = request.headers.get("idempotency-key")
        ledger.requests.append({**shown, "kind": kind, "key": key})
        fault = ledger.fault(str(body.get("prompt", "")))
        count = int(body.get("n") or 1)
        refusal = self._refusal(fault, body)
        if refusal is not None:
            return refusal
        ledger.charge(count, key, idempotent=self.idempotent)
        if fault == "hang":
            await self.wire.stopping.wait()
            return None
        if fault == "reset":
            connection.reset()
            return None
        if fault == "504":
            return Reply(504, b"<html>Gateway Time-out</html>", {"content-type": "text/html"})
        if fault == "slow":
            await asyncio.sleep(self.pause)
        if fault == "type":
            return Reply(200, b"<html>Welcome to our proxy</html>", {"content-type": "text/html"})
        if body.get("stream"):
            return await self._stream(connection, body, kind, fault)
        data = [] if fault == "empty" else [{"b64_json": self._picture(body, index, fault)} for index in range(count)]
        reply = Reply.of(
            {**self._shape(body), "created": int(time.time()), "data": data, "usage": usage(body, count)}, **self._headers()
        )
        if fault == "json":
            reply.body = reply.body[: len(reply.body) // 2]
        if fault == "cut":
            await connection.begin(200, {**reply.headers, "content-length": str(len(reply.body))})
            await connection.write(reply.body[: len(reply.body) // 2])
            connection.finish()
            return None
        return reply

    def _refusal(self, fault: str | None, body: dict[str, Any]) -> Reply | None:
        model = body.get("model")
        if self.models is not None and model not in {each["id"] for each in self.models}:
            fault = "gone"
        match fault:
            case "429":
                message = "Rate limit reached for images per minute."
                return failure(429, "requests", "rate_limit_exceeded", message, retry_after="0.2", **self._headers())
            case "500":
                return failure(500, "server_error", None, "The server had an error while processing your request.")
            case "503-no-retry":
                return failure(503, "server_error", None, "Do not try again.", x_should_retry="false")
            case "moderation":
                message = "Your request was rejected by the safety system. safety_violations=[violence]."
                return failure(400, "image_generation_user_error", "moderation_blocked", message)
            case "billing":
                return failure(400, "invalid_request_error", "billing_hard_limit_reached", "Billing hard limit has been reached.")
            case "quota":
                return failure(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota.")
            case "key":
                return failure(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-secret****cret.")
            case "gone":
                return failure(404, "invalid_request_error", "model_not_found", f"The model '{model}' does not exist.", "model")
        return None

    async def _stream(self, connection: Connection, body: dict[str, Any], kind: str, fault: str | None) -> None:
        await connection.begin(200, {"content-type": "text/event-stream", "connection": "close", **self._headers()})
        shape = {**self._shape(body), "created_at": int(time.time())}
        if fault == "chatter":
            await connection.write(b": a comment\n\n")
            await connection.event("ping", {})
            await connection.event("image_generation.queued", {"type": "image_generation.queued", "place": 3})
            await connection.event("image_safety.completed", {"type": "image_safety.completed", "b64_json": None})
        broken = "not-a-picture" if fault == "partial" else None
        for index in range(int(body.get("partial_images") or 0)):
            name = f"{kind}.partial_image"
            part = {"type": name, "b64_json": self._picture(body, index + 1, broken), "partial_image_index": index, **shape}
            await connection.event(name, part)
            if fault in ("cut", "stream-error"):
                break
        if fault == "json":
            await connection.write(b'event: x\ndata: {"type": "image_ge\n\n')
        elif fault == "cut":
            await connection.write(f'event: {kind}.completed\ndata: {{"type": "{kind}.completed", "b64_json": "iVBOR'.encode())
        elif fault == "stream-error":
            error = {"message": "It went wrong.", "type": "server_error", "code": None, "param": None}
            await connection.event("error", {"type": "error", "error": error})
        elif fault != "empty":
            name = f"{kind}.completed"
            await connection.event(
                name, {"type": name, "b64_json": self._picture(body, 0, fault), **shape, "usage": usage(body, 1)}
            )
        connection.finish()

    def _moderated(self, request: Request) -> Reply:
        names = ("harassment", "hate", "illicit", "self-harm", "sexual", "sexual/minors", "violence", "violence/graphic")
        inputs = request.json().get("input")
        inputs = inputs if isinstance(inputs, list) and inputs and isinstance(inputs[0], str) else [inputs]
        results = []
        for each in inputs:
            hits = {name for word, found in self.flagged.items() if word in str(each) for name in found}
            results.append(
                {
                    "flagged": bool(hits),
                    "categories": {name: name in hits for name in names},
                    "category_scores": {name: 0.97 if name in hits else 0.001 for name in names},
                    "category_applied_input_types": {name: ["text"] for name in names},
                }
            )
        return Reply.of({"id": "modr-1", "model": "omni-moderation-latest", "results": results})

    def _model(self, told: dict[str, Any]) -> dict[str, Any]:
        return {"object": "model", "created": 0, "owned_by": "double", **told}

    def _headers(self) -> dict[str, str]:
        named = {name.replace("-", "_"): value for name, value in self.limits.items()}
        return {"x_request_id": f"req_double_{self.ledger.attempts}", **named}

    def _shape(self, body: dict[str, Any]) -> dict[str, Any]:
        size = body.get("size") or "1024x1024"
        quality = body.get("quality") or "auto"
        return {
            "size": "1024x1024" if size == "auto" else size,
            "quality": "medium" if quality == "auto" else quality,
            "background": "transparent" if body.get("background") == "transparent" else "opaque",
            "output_format": body.get("output_format") or "png",
        }

    def _picture(self, body: dict[str, Any], index: int, fault: str | None) -> str:
        if fault == "not-a-picture":
            return base64.b64encode(b"this is no picture").decode()
        shape = self._shape(body)
        size = tuple(int(side) for side in shape["size"].split("x"))
        clear = (0,) if shape["background"] == "transparent" else (255,)
        colour = COLOURS[index % len(COLOURS)]
        image = Image.new("RGBA", size, (*colour, *clear)) if clear[0] == 0 else Image.new("RGB", size, colour)
        if clear[0] == 0:
            image.paste((*colour, 255), (0, 0, size[0] // 2, size[1]))
        target, own = io.BytesIO(), PngInfo()
        own.add_text("Comment", f"{self.ledger.attempts}.{index}")  # a vendor never makes the same picture twice
        more = {"compress_level": 1, "pnginfo": own} if shape["output_format"] == "png" else {}
        image.save(target, shape["output_format"].upper(), **more)
        return base64.b64encode(target.getvalue()).decode()


def usage(body: dict[str, Any], count: int) -> dict[str, Any]:
    text, image, out = len(str(body.get("prompt", "")).split()), 0 if "image" not in body else 323, 196 * count
    details = {"text_tokens": text, "image_tokens": image}
    return {
        "input_tokens": text + image,
        "output_tokens": out,
        "total_tokens": text + image + out,
        "input_tokens_details": details,
    }


def failure(status: int, kind: str, code: str | None, message: str, param: str | None = None, **headers: str) -> Reply:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Reply.of(
        {"error": error}, status, x_request_id="req_double_error", **{k: v for k, v in headers.items() if k != "x_request_id"}
    )


async def main(double: Any, port: int) -> None:
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, double.wire.stopping.set)
    await double.wire.serve(port, started=lambda url: print(f"listening on {url}", flush=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--idempotent", action="store_true", help="a repeated Idempotency-Key is not charged again")
    arguments = parser.parse_args()
    asyncio.run(main(Double(idempotent=arguments.idempotent), arguments.port))
