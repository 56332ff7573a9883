"""Stability's v2beta API as a standalone double; control and faults as in `tests.doubles.openai`.

python -m tests.doubles.stability --port 0
"""

import argparse
import asyncio
import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from ledger import Ledger
from openai import main
from wire import Connection, Reply, Request, Wire

FAULTS = ("429", "500", "moderation", "filtered", "credit", "key", "hang", "reset", "not-a-picture", "gone")
RATIOS = {"1:1": (1024, 1024), "16:9": (1344, 768), "9:16": (768, 1344), "3:2": (1216, 832), "2:3": (832, 1216)}


class Double:
    def __init__(self) -> None:
        self.ledger = Ledger()
        self.wire = Wire(self.handle)
        self.started: dict[str, tuple[int, bytes]] = {}

    async def handle(self, request: Request, connection: Connection) -> Reply | None:
        if request.path.startswith("/_double/"):
            if request.path.endswith("/reset"):
                self.ledger.reset()
            elif request.path.endswith("/faults"):
                self.ledger.faults = list(request.json()["faults"])
            return Reply.of(self.ledger.view())
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return failure(401, "unauthorized", "missing key")
        if request.method == "GET" and request.path.startswith("/v2beta/results/"):
            return self._result(request.path.rpartition("/")[2])
        return await self._work(request, connection)

    async def _work(self, request: Request, connection: Connection) -> Reply | None:
        form = request.form()
        fields = {name: parts[0].decode() for name, parts in form.items() if name not in ("image", "mask")}
        pictures = {}
        for name in ("image", "mask"):
            if name in form:
                with Image.open(io.BytesIO(form[name][0])) as image:
                    pictures[name] = image.convert("L" if name == "mask" else "RGB")
        operation = request.path.removeprefix("/v2beta/stable-image/")
        ledger = self.ledger
        ledger.attempts += 1
        ledger.requests.append({"operation": operation, **fields, **{name: list(image.size) for name, image in pictures.items()}})
        fault = ledger.fault(fields.get("prompt", ""))
        if fault in REFUSALS:
            return REFUSALS[fault]
        ledger.charge(1, request.headers.get("idempotency-key"))
        if fault == "hang":
            await self.wire.stopping.wait()
            return None
        if fault == "reset":
            connection.reset()
            return None
        size = pictures["image"].size if "image" in pictures else RATIOS.get(fields.get("aspect_ratio", "1:1"), (1024, 1024))
        if operation == "edit/outpaint":
            size = (
                size[0] + sum(int(fields.get(s, 0)) for s in ("left", "right")),
                size[1] + sum(int(fields.get(s, 0)) for s in ("up", "down")),
            )
        if operation.startswith("upscale/"):
            size = (size[0] * 4, size[1] * 4)
        target = io.BytesIO()
        Image.new("RGB", size, (40, 120, 200)).save(target, fields.get("output_format", "png").upper())
        body = b"no picture" if fault == "not-a-picture" else target.getvalue()
        if operation == "upscale/creative":
            name = f"{len(self.started):064x}"
            self.started[name] = (2, body)
            return Reply.of({"id": name})
        finish = "CONTENT_FILTERED" if fault == "filtered" else "SUCCESS"
        seed = fields.get("seed", "0")
        kind = f"image/{fields.get('output_format', 'png')}"
        return Reply(
            200, body, {"content-type": kind, "finish-reason": finish, "seed": seed, "x-request-id": f"st_{ledger.attempts}"}
        )

    def _result(self, name: str) -> Reply:
        self.ledger.polls += 1
        if name not in self.started:
            return failure(404, "not_found", "no such result")
        left, body = self.started[name]
        self.started[name] = (left - 1, body)
        if left > 0:
            return Reply.of({"id": name, "status": "in-progress"}, 202)
        return Reply(200, body, {"content-type": "image/png", "finish-reason": "SUCCESS", "seed": "7"})


def failure(status: int, name: str, error: str, **headers: str) -> Reply:
    return Reply.of({"id": "0" * 32, "name": name, "errors": [error]}, status, **headers)


REFUSALS = {
    "429": failure(429, "rate_limit_exceeded", "too many requests", retry_after="0.2"),
    "500": failure(500, "internal_error", "something went wrong"),
    "moderation": failure(403, "content_moderation", "your request was flagged"),
    "credit": failure(402, "payment_required", "you lack sufficient credits"),
    "gone": failure(404, "not_found", "the requested resource was not found"),
    "key": failure(401, "unauthorized", "invalid key"),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(main(Double(), parser.parse_args().port))
