"""Replicate's predictions as a standalone double; control and faults as in `tests.doubles.openai`.

    python -m tests.doubles.replicate --port 0

A prompt with `slow` is not finished when the first answer comes; one with `endless` never is. What is not finished writes
a progress bar into its logs. Where the fault is `waited`, the first answer comes late, as if the wait for it were long.
"""

import argparse
import asyncio
import base64
import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from ledger import Ledger
from openai import main
from wire import Connection, Reply, Request, Wire

FAULTS = (
    "429",
    "500",
    "failed",
    "moderation",
    "credit",
    "key",
    "hang",
    "foreign-host",
    "text",
    "gone",
    "data",
    "data-broken",
    "url-broken",
    "waited",
)


class Double:
    def __init__(self, *, pause: float = 0.5) -> None:
        self.pause = pause
        self.ledger = Ledger()
        self.wire = Wire(self.handle)
        self.predictions: dict[str, dict[str, Any]] = {}

    async def handle(self, request: Request, connection: Connection) -> Reply | None:
        if request.path.startswith("/_double/"):
            if request.path.endswith("/reset"):
                self.ledger.reset()
            elif request.path.endswith("/faults"):
                self.ledger.faults = list(request.json()["faults"])
            return Reply.of(self.ledger.view())
        if request.path.startswith("/files/"):
            return self._file(request.path.rpartition("/")[2])
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return failure(401, "Unauthenticated")
        if request.method == "POST" and request.path.endswith("/cancel"):
            return self._cancel(request.path.split("/")[-2])
        if request.method == "GET":
            return self._look(request.path.rpartition("/")[2])
        return await self._begin(request)

    async def _begin(self, request: Request) -> Reply | None:
        body, ledger = request.json(), self.ledger
        told = body["input"]
        ledger.attempts += 1
        ledger.requests.append({"path": request.path, "prefer": request.headers.get("prefer"), **body})
        fault = ledger.fault(str(told.get("prompt", "")))
        match fault:
            case "429":
                return failure(429, "Request was throttled. Your rate limit resets in ~1s.", retry_after="0.2")
            case "500":
                return failure(500, "Internal server error")
            case "credit":
                return failure(402, "You have insufficient credit.")
            case "key":
                return failure(401, "You did not pass a valid token")
            case "gone":
                return failure(404, "The requested resource could not be found.")
        ledger.charge(1, request.headers.get("idempotency-key"))
        if fault == "hang":
            await self.wire.stopping.wait()
            return None
        name = f"p{len(self.predictions):025d}"
        host = "http://203.0.113.7" if fault == "foreign-host" else self.wire.url
        made = {
            "id": name,
            "model": request.path.removeprefix("/v1/models/").removesuffix("/predictions"),
            "input": told,
            "status": "succeeded",
            "output": [f"{host}/files/{name}.png"],
            "error": None,
            "metrics": {"predict_time": 1.5},
        }
        outputs = {
            "text": "a sentence",
            "data": f"data:image/png;base64,{base64.b64encode(self._file(name, told).body).decode()}",
            "data-broken": "data:image/png;base64,this is no base64!",
            "url-broken": "https://[::1",
        }
        if fault in outputs:
            made["output"] = outputs[fault]
        if fault in ("failed", "moderation"):
            error = "CUDA out of memory" if fault == "failed" else "NSFW content detected."
            made |= {"status": "failed", "output": None, "error": error}
        self.predictions[name] = {**made, "left": 2 if "slow" in str(told) else 10**9 if "endless" in str(told) else 0}
        if fault == "waited":
            await asyncio.sleep(self.pause)
        return Reply.of(self._view(name), 201)

    def _look(self, name: str) -> Reply:
        self.ledger.polls += 1
        if name not in self.predictions:
            return failure(404, "not found")
        self.predictions[name]["left"] -= 1
        return Reply.of(self._view(name))

    def _cancel(self, name: str) -> Reply:
        self.ledger.cancelled += 1
        self.predictions[name] |= {"status": "canceled", "output": None, "left": 0}
        return Reply.of(self._view(name))

    def _view(self, name: str) -> dict[str, Any]:
        made = dict(self.predictions[name])
        left = made.pop("left")
        if left > 0:
            done = max(0, 3 - left) * 25
            bar = f"Using seed: 7\n  0%|          | 0/8 [00:00<?]\r {done:2}%|##        | {done * 8 // 100}/8 [00:01<00:01]\n"
            made |= {"status": "processing", "output": None, "logs": bar}
        return made

    def _file(self, name: str, told: dict[str, Any] | None = None) -> Reply:
        told = self.predictions[name.removesuffix(".png")]["input"] if told is None else told
        size = (int(told.get("width", 1024)), int(told.get("height", 1024)))
        target = io.BytesIO()
        Image.new("RGB", size, (200, 120, 40)).save(target, "PNG", compress_level=1)
        return Reply(200, target.getvalue(), {"content-type": "image/png"})


def failure(status: int, detail: str, **headers: str) -> Reply:
    return Reply.of({"title": "It failed", "detail": detail, "status": status}, status, **headers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(main(Double(), parser.parse_args().port))
