"""Idempotency-Key over HTTP: what is sent again is answered again, and done once."""

import asyncio
import base64
import io
import json
import os
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from PIL import Image
from sqlalchemy import update

from pipelines.contract.errors import EngineFailure
from pipelines.contract.picture import Picture
from server.access.idempotency import Keeper, Keeping
from server.app import application, assemble
from server.db.batches import LineEnds
from server.db.idempotency import SqlIdempotency
from server.db.jobs import SqlJobs
from server.db.tables import IDEMPOTENCY
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
models: {m: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 4, sampler: euler}}}
"""
LINE = {"custom_id": "x", "body": {"prompt": "a cat"}}


def png(colour="red"):
    target = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(target, "PNG")
    return target.getvalue()


async def nothing(_job):
    return b""


@asynccontextmanager
async def served(folder, function=None, most=8 << 20):
    """A client of a server whose pictures come from ``function``."""
    calls = []

    async def counted(request, call):
        calls.append(request)
        return await function(request, call) if function else flat(request)

    (folder / "models.yaml").write_text(MODELS)
    clock = SystemClock()
    settings = Settings(home=folder, models=folder / "models.yaml", devices=("fake",), api_keys=("a", "b"))
    parts = assemble(settings, silent())
    jobs = JobService(
        Gateway(FunctionProvider(counted), parts.store, parts.metrics),
        SqlJobs(parts.database, clock, LineEnds(Outbox(nothing))),
        Admission(8, parts.metrics),
        clock=clock,
        metrics=parts.metrics,
        log=silent(),
    )
    keeper = Keeper(SqlIdempotency(parts.database, clock, most=most), clock, silent(), Keeping())
    app = application(msgspec.structs.replace(parts, jobs=jobs, keeper=keeper))
    transport = httpx.ASGITransport(app)
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        client.headers["authorization"] = "Bearer a"
        client.calls, client.jobs, client.database = calls, jobs, parts.database
        yield client


def keyed(key="k"):
    return {"headers": {"Idempotency-Key": key}}


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/api/generate", {"json": {"prompt": "a cat"}}),
        ("/api/generate", {"json": {"prompt": "a cat", "response_format": "b64"}}),
        ("/api/generate", {"data": {"prompt": "a cat"}, "files": {"image": png()}}),
        ("/api/jobs", {"json": {"prompt": "a cat"}}),
        ("/api/assets", {"content": png()}),
        ("/api/batches", {"content": json.dumps(LINE)}),
        ("/api/batches", {"files": {"file": json.dumps(LINE).encode()}}),
        ("/v1/images/generations", {"json": {"prompt": "a cat"}}),
        ("/v1/images/edits", {"data": {"prompt": "a cat"}, "files": {"image": png()}}),
    ],
)
async def test_the_same_request_again_is_the_same_answer(tmp_path, path, sent):
    async with served(tmp_path) as client:
        first = await client.post(path, **sent, **keyed())
        assert first.status_code in {200, 201, 202}, first.text
        again = await client.post(path, **sent, **keyed('"k"'))
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
        for name in ("content-type", "location"):
            assert first.headers.get(name) == again.headers.get(name)
        assert first.headers["x-request-id"] != again.headers["x-request-id"]
        assert len([call for call in client.calls if call.priority.name != "BULK"]) <= 1
        # Another tenant's keys are its own.
        theirs = await client.post(path, **sent, headers={**keyed()["headers"], "authorization": "Bearer b"})
        assert "idempotent-replayed" not in theirs.headers
        assert (await client.post(path, **sent, headers={**keyed()["headers"], "authorization": "Bearer c"})).status_code == 401


async def test_a_key_belongs_to_one_request(tmp_path):
    async with served(tmp_path) as client:
        assert (await client.post("/api/generate", json={"prompt": "a cat"}, **keyed())).status_code == 200
        for path, body in (("/api/generate", {"prompt": "a dog"}), ("/api/jobs", {"prompt": "a cat"})):
            refused = await client.post(path, json=body, **keyed())
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused")
        openai = await client.post("/v1/images/generations", json={"prompt": "a cat"}, **keyed())
        assert openai.status_code == 422
        assert set(openai.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 256, "\u00e9"])
async def test_what_is_no_key(tmp_path, key):
    async with served(tmp_path) as client:
        answer = await client.post("/api/generate", json={"prompt": "x"}, headers={"Idempotency-Key": key.encode()})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
        assert client.calls == []


async def test_refusals_of_the_request_stay_and_those_of_the_moment_do_not(tmp_path):
    failing = True

    async def function(request, _call):
        if failing:
            raise EngineFailure("not now")
        return flat(request)

    async with served(tmp_path, function) as client:
        wrong = {"json": {"prompt": "x", "steps": 0}, **keyed("wrong")}
        assert (await client.post("/api/generate", **wrong)).status_code == 400
        again = await client.post("/api/generate", **wrong)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (400, "true")
        right = {"json": {"prompt": "x"}, **keyed("right")}
        assert (await client.post("/api/generate", **right)).status_code == 500
        failing = False
        now = await client.post("/api/generate", **right)
        assert (now.status_code, now.headers.get("idempotent-replayed")) == (200, None)
        assert (await client.post("/api/generate", **right)).headers["idempotent-replayed"] == "true"
        assert len(client.calls) == 2


async def test_while_the_first_is_at_work_the_second_is_told_when_to_come_back(tmp_path):
    entered, gate = asyncio.Event(), asyncio.Event()

    async def function(request, _call):
        entered.set()
        await gate.wait()
        return flat(request)

    async with served(tmp_path, function) as client:
        first = asyncio.create_task(client.post("/api/generate", json={"prompt": "x"}, **keyed()))
        await asyncio.wait_for(entered.wait(), 60)
        second = await client.post("/api/generate", json={"prompt": "x"}, **keyed())
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
        assert int(second.headers["retry-after"]) >= 1
        assert second.headers["x-should-retry"] == "true"
        gate.set()
        assert (await first).status_code == 200
        assert (await client.post("/api/generate", json={"prompt": "x"}, **keyed())).status_code == 200
        assert len(client.calls) == 1


async def unanswered(client):
    """As a server leaves its keys that died between what it made and its answer."""
    async with client.database.writing() as connection:
        await connection.execute(update(IDEMPOTENCY).values(answer=None, owner=None, lease=None))


async def test_what_was_accepted_before_a_death_is_found_before_anything_is_asked_again(tmp_path):
    async with served(tmp_path) as client:
        asset = (await client.post("/api/assets", content=png())).json()["id"]
        job = {"json": {"prompt": "x", "image": asset, "negative_prompt": "y", "guidance": 1.0}, **keyed("job")}
        jsonl = {"content-type": "application/x-ndjson", "idempotency-key": "batch"}
        batch = {"content": json.dumps({"custom_id": "a", "body": {"prompt": "x", "image": asset}}), "headers": jsonl}
        accepted = [await client.post("/api/jobs", **job), await client.post("/api/batches", **batch)]
        assert [each.status_code for each in accepted] == [202, 202]
        assert [each["code"] for each in accepted[0].json()["warnings"]] == ["negative_prompt_unused"]
        await unanswered(client)
        # Neither the picture is there any more, nor is anything new taken.
        assert (await client.delete(f"/api/assets/{asset}")).status_code == 204
        client.jobs.close()
        again = [await client.post("/api/jobs", **job), await client.post("/api/batches", **batch)]
        assert [each.status_code for each in again] == [202, 202]
        assert again[0].json() == accepted[0].json()
        assert again[1].json()["id"] == accepted[1].json()["id"]
        assert [each.headers["location"] for each in again] == [each.headers["location"] for each in accepted]
        assert (await client.post("/api/jobs", json={"prompt": "x"}, **keyed("new"))).status_code == 503


async def test_streams_take_no_key(tmp_path):
    async with served(tmp_path) as client:
        for path, body, headers in (
            ("/api/generate", {"prompt": "x"}, {"accept": "text/event-stream"}),
            ("/v1/images/generations", {"prompt": "x", "stream": True}, {}),
        ):
            refused = await client.post(path, json=body, headers={**headers, "Idempotency-Key": path})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Idempotency-Key")
        assert client.calls == []


async def test_an_answer_that_is_too_large_says_where_its_images_are(tmp_path):
    async def function(request, _call):
        noise = Picture(64, 64, "RGB", os.urandom(3 * 64 * 64))
        return msgspec.structs.replace(flat(request), pictures=(noise,))

    async with served(tmp_path, function, most=5000) as client:
        body = {"prompt": "x", "response_format": "b64"}
        first = (await client.post("/api/generate", json=body, **keyed())).json()
        again = await client.post("/api/generate", json=body, **keyed())
        assert (again.status_code, again.json()["error"]["code"]) == (410, "answer_not_kept")
        assert f"/api/jobs/{first['id']}" in again.json()["error"]["message"]
        (image,) = (await client.get(f"/api/jobs/{first['id']}")).json()["images"]
        file = await client.get(image["url"])
        assert file.content == base64.b64decode(first["images"][0]["b64"])
        assert len(client.calls) == 1


async def test_boundaries_do_not_matter_and_contents_do(tmp_path):
    def form(boundary, prompt):
        return {
            "content": f'--{boundary}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{prompt}\r\n--{boundary}--\r\n',
            "headers": {"Idempotency-Key": "k", "content-type": f"multipart/form-data; boundary={boundary}"},
        }

    async with served(tmp_path) as client:
        first = await client.post("/api/generate", **form("one", "a cat"))
        assert first.status_code == 200, first.text
        assert (await client.post("/api/generate", **form("two", "a cat"))).headers["idempotent-replayed"] == "true"
        assert (await client.post("/api/generate", **form("one", "a dog"))).status_code == 422


def test_hanging_up_is_no_reason_to_begin_again(launch, tmp_path_factory, until):
    models = MODELS.replace("fake:", "fake:?tick=0.05").replace("steps: 4", "steps: 20")
    server = launch(tmp_path_factory.mktemp("impatient"), models=models).until_ready()
    ask = {"json": {"prompt": "x"}, "headers": {"Idempotency-Key": "k"}}
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/api/generate", timeout=httpx.Timeout(30, read=0.2), **ask)

    def answered():
        answer = server.client.post("/api/generate", **ask)
        assert answer.status_code in {200, 409}, answer.text
        return answer if answer.status_code == 200 else None

    answer = until(answered)
    assert answer.headers["idempotent-replayed"] == "true"
    (job,) = server.client.get("/api/jobs").json()["data"]
    assert (job["id"], job["state"]) == (answer.json()["id"], "succeeded")
