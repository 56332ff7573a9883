"""The HTTP stack that both baselines share: Litestar and uvicorn, the same JSON, the same PNG in base64 as Aquatint."""

import argparse
import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import torch
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import UploadFile
from PIL import Image
from reference import DEMO, Reference, png
from workload import Job

Draw = Callable[[Job, bytes], Awaitable[tuple[Image.Image, float]]]
"""Makes one image of a job and the picture it begins from (empty for txt2img); also says how long the pipeline took."""


def job_of(fields: dict[str, Any], picture: bytes) -> Job:
    """The job that a request's fields describe; a subset of the OpenAI dialect, unchecked."""
    width, height = (int(side) for side in str(fields["size"]).split("x"))
    return Job(
        number=0,
        kind="img2img" if picture else "txt2img",
        prompt=str(fields["prompt"]),
        width=width,
        height=height,
        steps=int(fields["steps"]),
        sampler=str(fields["sampler"]),
        guidance=float(fields["guidance_scale"]),
        seed=int(fields["seed"]),
        strength=float(fields.get("strength", 1.0)),
    )


def app(draw: Draw) -> Litestar:
    """Images over HTTP, made by ``draw``."""

    async def answer(job: Job, picture: bytes) -> Response[dict[str, Any]]:
        image, seconds = await draw(job, picture)
        data = await asyncio.to_thread(lambda: base64.b64encode(png(image)).decode())
        body = {"created": int(time.time()), "data": [{"b64_json": data}]}
        return Response(body, headers={"openai-processing-ms": f"{seconds * 1000:.0f}"})

    @post("/v1/images/generations", status_code=200)
    async def generations(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
        return await answer(job_of(await request.json(), b""), b"")

    @post("/v1/images/edits", status_code=200)
    async def edits(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
        form = dict(await request.form())
        upload = form.pop("image")
        picture = await upload.read() if isinstance(upload, UploadFile) else b""
        return await answer(job_of(form, picture), picture)

    @get("/readyz")
    async def ready() -> str:
        return "ready"

    return Litestar([generations, edits, ready], openapi_config=None)


def main(description: str, make: Callable[[Reference], Draw]) -> None:
    """Load the checkpoint and serve it until told to stop."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    reference = Reference(arguments.model)
    config = uvicorn.Config(app(make(reference)), host="127.0.0.1", port=arguments.port, log_level="warning")
    server = _Announcing(config)
    server.run()


class _Announcing(uvicorn.Server):
    """Says on stdout where it listens, in Aquatint's words."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"aquatint listening on http://127.0.0.1:{port}", flush=True)
