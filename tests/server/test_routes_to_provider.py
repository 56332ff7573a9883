"""What is asked for over HTTP, in either dialect, is what the provider is asked for."""

import base64
import io
import json

import msgspec
import pytest
from litestar.testing import TestClient
from PIL import Image

from pipelines.contract.control import Balance
from pipelines.contract.enlarging import Enlarger
from pipelines.contract.picture import Picture
from server.app import application, assemble
from server.db.jobs import SqlJobs
from server.db.webhooks import Outbox
from server.domain.clock import SystemClock
from server.gateway.finish import Gateway
from server.jobs.admission import Admission
from server.jobs.service import JobService
from server.providers.fake import FunctionProvider, flat
from server.settings import Settings
from server.telemetry.logs import silent

MODELS = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 8, sampler: euler}}}
loras: {ink: {source: file:ink.safetensors, family: fake}, paper: {source: bundled:paper, family: fake, weight: 0.5}}
controlnets: {canny: {source: bundled:canny, family: fake, preprocessor: canny}}
ip_adapters: {plus: {source: file:plus.safetensors, family: fake}}
upscalers: {sharp: {source: file:sharp.safetensors}}
"""


def png(colour="red", size=(8, 8)):
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "PNG")
    return target.getvalue()


def url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


async def nothing(_job):
    return b""


@pytest.fixture
def asked():
    return []


@pytest.fixture
def client(tmp_path, asked):
    async def function(request, _call):
        asked.append(request)
        size = (request.upscale.width, request.upscale.height) if request.upscale else (request.width, request.height)
        plain = flat(request)
        return msgspec.structs.replace(plain, pictures=(Picture(*size, "RGB", bytes(3 * size[0] * size[1])),))

    (tmp_path / "models.yaml").write_text(MODELS)
    parts = assemble(Settings(home=tmp_path, models=tmp_path / "models.yaml", devices=("fake",)), silent())
    clock = SystemClock()
    jobs = JobService(
        Gateway(FunctionProvider(function), parts.store, parts.metrics),
        SqlJobs(parts.database, clock, Outbox(nothing)),
        Admission(8, parts.metrics),
        clock=clock,
        metrics=parts.metrics,
        log=silent(),
    )
    with TestClient(application(msgspec.structs.replace(parts, jobs=jobs))) as client:
        yield client


OPTIONS = {
    "loras": ["ink:0.4"],
    "controls": [{"name": "canny", "image": url(png("blue")), "weight": 0.5, "balance": "control"}],
    "references": [{"name": "plus", "images": [url(png()), url(png("lime"))], "weight": 0.3}],
    "hires": {"scale": 2, "upscaler": "sharp"},
    "upscale": {"scale": 2},
    "output": {"size": "128x128"},
}


def check(request, folder):
    assert request.prompt == "a cat "
    assert {use.card.name: use.weight for use in request.loras} == {"paper": 0.5, "ink": 0.4}
    assert {use.card.source for use in request.loras} == {"bundled:paper", f"file:{folder / 'ink.safetensors'}"}
    (control,) = request.controls
    assert (control.card.name, control.preprocessor, control.weight, control.balance) == ("canny", "canny", 0.5, Balance.CONTROL)
    assert control.picture.data[:3] == b"\x00\x00\xff"
    (reference,) = request.references
    assert [picture.data[:3] for picture in reference.pictures] == [b"\xff\x00\x00", b"\x00\xff\x00"]
    assert (request.hires.width, request.hires.enlarger, request.hires.card.name) == (128, Enlarger.MODEL, "sharp")
    assert (request.upscale.width, request.upscale.height) == (256, 256)
    assert {card.name for card in request.adapters} == {"ink", "paper", "canny", "plus", "sharp"}


def test_the_native_route(client, asked, tmp_path):
    answer = client.post("/api/generate", json={"prompt": "a cat <lora:paper>", **OPTIONS})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["size"], answer.json()["images"][0]["width"]) == ("128x128", 128)
    check(asked[0], tmp_path)


def test_openai_s_routes_in_json(client, asked, tmp_path):
    body = {"prompt": "a cat <lora:paper>", **OPTIONS}
    assert client.post("/v1/images/generations", json=body).json()["size"] == "128x128"
    check(asked[0], tmp_path)
    start = {"images": [{"image_url": url(png(size=(64, 64)))}], "outpaint": {"left": 8}, "size": "64x64"}
    assert client.post("/v1/images/edits", json={**body, **start}).status_code == 200
    check(asked[1], tmp_path)
    assert asked[1].init.outpaint.left == 8


def test_openai_s_edits_in_a_form(client, asked, tmp_path):
    options = {**OPTIONS, "controls": [{**OPTIONS["controls"][0], "image": "edges"}]}
    data = {name: json.dumps(value) for name, value in options.items()}
    files = {"image": png(size=(64, 64)), "edges": ("edges", png("blue"), "image/png")}
    answer = client.post("/v1/images/edits", data={"prompt": "a cat <lora:paper>", **data}, files=files)
    assert answer.status_code == 200, answer.text
    check(asked[0], tmp_path)


def test_a_picture_that_keeps_its_size_travels_whole(client, asked):
    big, mask = png(size=(512, 512)), png("white", (512, 512))
    for only in ("false", "true"):
        data = {"prompt": "a cat", "only_masked": only, "size": "64x64"}
        client.post("/api/generate", data=data, files={"image": big, "mask": mask})
    assert [request.init.picture.width for request in asked] == [128, 512]


def test_a_job_that_is_over_forgets_its_pictures(client, asked):
    from server.domain.job import Job, JobState, Order

    client.post("/api/generate", json={"prompt": "a cat", **OPTIONS})
    job = Job("a", Order(asked[0]), JobState.SUCCEEDED, 0.0)
    bare = job.without_input().order.request
    pictures = [bare.controls[0].picture, *bare.references[0].pictures]
    assert [len(picture.data) for picture in pictures] == [1, 1, 1]
    assert msgspec.structs.replace(bare.controls[0], picture=asked[0].controls[0].picture) == asked[0].controls[0]
