"""Every route with another tenant's key: nothing of what one has made exists for the other.

Every route of the application stands in `ROUTES`, with what it is: whoever adds a route says there what it may show to whom.
"""

import asyncio
import base64
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from PIL import Image

from server.access.keys import digest
from server.app import build
from server.db.database import Database, beside
from server.db.keys import SqlKeys
from server.db.migrating import migrate
from server.domain.key import Key, Scope
from server.settings import Settings

SECRET = "the-secret-of-anna"  # noqa: S105 - a prompt
MODELS = """
server: {default_model: quick}
models:
  quick: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2, sampler: euler}}
  slow:
    source: "fake:?tick=0.4"
    family: fake
    defaults: {width: 64, height: 64, steps: 900, sampler: euler}
    limits: {max_steps: 900}
"""
ANNA, BEN, READER, BOSS = "key-of-anna", "key-of-ben", "reading-key-of-anna", "key-of-the-boss"
KEYS = (
    (ANNA, "tenant-anna", Scope.GENERATE),
    (BEN, "tenant-ben", Scope.GENERATE),
    (READER, "tenant-anna", Scope.JOBS_READ),
    (BOSS, "tenant-boss", Scope.ADMIN),
)


@dataclass
class Open:
    """For everybody, without a key; says nothing about any tenant."""

    path: str | None = None

    def walk(self, world, method, path):
        for key in (None, BEN, READER):
            answer = world.call(key, method, self.path or path)
            assert answer.status_code in {200, 404}
            world.check(answer)


@dataclass
class Shared:
    """The same for everybody who has a key."""

    path: str | None = None

    def walk(self, world, method, path):
        assert world.call(None, method, self.path or path).status_code == 401
        answer = world.call(BEN, method, self.path or path)
        assert answer.status_code == 200
        world.check(answer)


@dataclass
class Listed:
    """Shows what is the caller's own, and nothing else."""

    queries: tuple[str, ...] = ("",)

    def walk(self, world, method, path):
        for query in self.queries:
            assert world.call(None, method, path + query).status_code == 401
            answer = world.call(BEN, method, path + query)
            assert answer.status_code == 200
            world.check(answer, query)
        assert world.call(READER, method, path).json()["data"], "who reads for Anna sees what is hers"


@dataclass
class Owned:
    """Is about one thing of the caller's; another's does not exist."""

    path: str

    def walk(self, world, method, _path):
        assert world.call(None, method, self.path).status_code == 401
        hers, nobodys = world.call(BEN, method, self.path), world.call(BEN, method, NOBODYS.sub(nobody, self.path))
        assert (hers.status_code, nobodys.status_code) == (404, 404)
        world.check(hers, self.path)
        assert nobodys.json()["error"]["code"] == hers.json()["error"]["code"], "another's is what does not exist"
        if method != "GET":
            assert world.call(READER, method, self.path).status_code == 403


@dataclass
class Makes:
    """Makes something for the caller; what it names must be the caller's own, or the answer is ``refused``."""

    refused: int
    request: dict[str, Any] = field(default_factory=dict)

    def walk(self, world, method, path):
        assert world.call(None, method, path, **self.request).status_code == 401
        assert world.call(READER, method, path, **self.request).status_code == 403
        answer = world.call(BEN, method, path, **self.request)
        assert answer.status_code == self.refused, answer.text
        world.check(answer, self.request)


@dataclass
class Operators:
    """For whoever runs the server."""

    path: str

    def walk(self, world, method, _path):
        assert [world.call(key, method, self.path).status_code for key in (None, BEN, READER)] == [401, 403, 403]


@dataclass
class Capability:
    """Whoever has the link may have what it leads to: it is signed, and told to its owner only."""

    def walk(self, world, method, _path):
        assert world.call(None, method, "/outputs/{link}").status_code == 200
        signature = world.names["link"].partition("?")[2]
        for unsigned in ("{result}", "x" * 32 + f".png?{signature}"):
            for key in (None, BEN):
                answer = world.call(key, method, f"/outputs/{unsigned}")
                assert answer.status_code == 403
                world.check(answer, unsigned)


@dataclass
class Spending:
    """What the caller itself has spent; only operators see what others have."""

    def walk(self, world, method, path):
        assert world.call(None, method, path).status_code == 401
        answer = world.call(BEN, method, path)
        assert answer.status_code == 200
        world.check(answer)
        for tenant in ("tenant-anna", "*"):
            refused = world.call(BEN, method, f"{path}?tenant={tenant}")
            assert refused.status_code == 403
            world.check(refused)


NOBODYS = re.compile(r"\{(\w+)\}")


def nobody(found):
    """A name of the same kind that nothing has."""
    return "asset_" + "0" * 32 if found[1] == "asset" else "0" * 24


def picture(colour):
    target = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(target, "PNG")
    return target.getvalue()


MINE = picture("red")
LINE = json.dumps({"custom_id": "x", "body": {"prompt": "x", "image": "{asset}"}})
# In paths and bodies {asset}, {job}, {batch}, {result} and {link} are Anna's.
ROUTES = {
    "GET /healthz": Open(),
    "GET /readyz": Open(),
    "GET /metrics": Open(),
    "GET /schema": Open(),
    "GET /schema/openapi.json": Open(),
    "GET /schema/{path}": Open("/schema/anything"),
    "GET /outputs/{name}": Capability(),
    "HEAD /outputs/{name}": Capability(),
    "GET /api/usage": Spending(),
    "GET /api/moderation": Operators("/api/moderation"),
    "GET /api/moderation/passed": Operators("/api/moderation/passed"),
    "GET /api/adapters": Shared(),
    "GET /api/preprocessors": Shared(),
    "GET /api/models": Shared(),
    "GET /api/models/{model_id}": Shared("/api/models/quick"),
    "GET /v1/models": Shared(),
    "GET /v1/models/{model_id}": Shared("/v1/models/quick"),
    "POST /api/models/{model_action}": Operators("/api/models/quick/load"),
    "GET /api/jobs": Listed(("", "?batch={batch}", "?state=running&state=succeeded", "?cursor=9999999999.0_{job}")),
    "GET /api/jobs/{job_id}": Owned("/api/jobs/{job}"),
    "GET /api/jobs/{job_id}/events": Owned("/api/jobs/{job}/events"),
    "POST /api/jobs/{job_id}/cancel": Owned("/api/jobs/{job}/cancel"),
    "DELETE /api/jobs/{job_id}": Owned("/api/jobs/{job}"),
    "GET /api/batches": Listed(("", "?cursor=9999999999.0_{batch}")),
    "GET /api/batches/{batch_id}": Owned("/api/batches/{batch}"),
    "GET /api/batches/{batch_id}/results": Owned("/api/batches/{batch}/results"),
    "POST /api/batches/{batch_id}/cancel": Owned("/api/batches/{batch}/cancel"),
    "DELETE /api/batches/{batch_id}": Owned("/api/batches/{batch}"),
    "GET /api/assets/{asset_id}": Owned("/api/assets/{asset}"),
    "DELETE /api/assets/{asset_id}": Owned("/api/assets/{asset}"),
    "POST /api/assets": Makes(201, {"content": MINE}),
    "POST /api/generate": Makes(404, {"json": {"prompt": "x", "image": "{asset}"}}),
    "POST /api/jobs": Makes(404, {"json": {"prompt": "x", "image": "{asset}"}}),
    "POST /api/batches": Makes(400, {"content": LINE}),
    "POST /api/route": Makes(404, {"json": {"prompt": "x", "image": "{asset}"}}),
    "POST /api/estimate": Makes(404, {"json": {"prompt": "x", "image": "{asset}"}}),
    "POST /v1/moderations": Makes(200, {"json": {"input": "x"}}),
    "POST /v1/content_provenance_checks": Makes(404, {"json": {"file": "{asset}"}}),
    "POST /api/preprocess": Makes(404, {"json": {"preprocessor": "canny", "image": "{asset}"}}),
    "POST /v1/images/generations": Makes(200, {"json": {"prompt": "x"}}),
    "POST /v1/images/edits": Makes(404, {"json": {"prompt": "x", "images": [{"file_id": "{asset}"}]}}),
}


def routes(tmp_path):
    """Every method and path of the application."""
    app = build(Settings(home=tmp_path, devices=("fake",)))
    return {
        f"{method} {route.path_format}" for route in app.routes for method in getattr(route, "methods", ()) if method != "OPTIONS"
    }


def test_every_route_says_what_it_may_show_to_whom(tmp_path):
    found = routes(tmp_path)
    new, gone = sorted(found - set(ROUTES)), sorted(set(ROUTES) - found)
    assert not new, (
        f"These routes are new: {new}. Add each to ROUTES in {__file__} as Open, Shared, Listed, Owned, Makes, Operators or "
        "Capability (their docstrings say what each promises), and what Anna makes there to `world`, so that it is walked."
    )
    assert not gone, f"These routes are gone: take them out of ROUTES: {gone}"


class World:
    """A server where Anna has made one of everything, and others look for it."""

    def __init__(self, server):
        self.url = server.url
        self.client = httpx.Client(base_url=server.url, timeout=60)
        self.names: dict[str, str] = {}

    def call(self, key, method, path, **request):
        headers = {**request.pop("headers", {}), **({"authorization": f"Bearer {key}"} if key else {})}
        return self.client.request(method, self.filled(path), headers=headers, **self.filled(request))

    def filled(self, value):
        """``value`` with Anna's names in it."""
        if isinstance(value, str):
            for name, known in self.names.items():
                value = value.replace(f"{{{name}}}", known)
        elif isinstance(value, dict):
            return {name: self.filled(each) for name, each in value.items()}
        elif isinstance(value, list):
            return [self.filled(each) for each in value]
        return value

    def marks(self, *sent):
        """What only Anna may read, but for what was ``sent`` and may be said back."""
        marks = {SECRET, "tenant-anna", "line-of-anna", *self.names.values()}
        return {mark for mark in marks if not any(mark in str(self.filled(each)) for each in sent)}

    def check(self, answer, *sent):
        """No failure, and nothing of Anna's."""
        assert answer.status_code < 500, answer.text
        shown = answer.text + str(answer.headers)
        assert not [mark for mark in self.marks(*sent) if mark in shown]

    def state(self):
        """All that Anna has, as she sees it."""
        job = self.call(ANNA, "GET", "/api/jobs/{job}").json()
        return (
            (job["state"], job["cancelling"]),
            self.call(ANNA, "GET", "/api/batches/{batch}").json(),
            self.call(ANNA, "GET", "/api/batches/{batch}/results").text,
            self.call(ANNA, "GET", "/api/assets/{asset}").content,
            [job["id"] for job in self.call(ANNA, "GET", "/api/jobs").json()["data"]],
            [batch["id"] for batch in self.call(ANNA, "GET", "/api/batches").json()["data"]],
        )


@pytest.fixture(scope="module")
def world(launch, tmp_path_factory, until):
    folder = tmp_path_factory.mktemp("tenants")

    async def prepare():
        database = Database(beside(folder / "home"))
        await migrate(database)
        for secret, tenant, scope in KEYS:
            await SqlKeys(database).add(Key(f"id-of-{secret}", tenant, "", (scope,), 1.0), digest(secret))
        await database.close()

    asyncio.run(prepare())
    world = World(launch(folder, "--jobs-hours", "10", "--drain-seconds", "1", models=MODELS).until_ready())
    anna = {"headers": {"Idempotency-Key": "of-anna"}}
    url = "data:image/png;base64," + base64.b64encode(MINE).decode()
    world.names["asset"] = world.call(ANNA, "POST", "/api/assets", content=MINE).json()["id"]
    done = world.call(ANNA, "POST", "/api/generate", json={"prompt": SECRET, "image": url}, **anna).json()
    world.names["link"] = done["images"][0]["url"].rpartition("/")[2]
    world.names["result"] = world.names["link"].partition("?")[0]
    line = {"custom_id": "line-of-anna", "body": {"prompt": SECRET}}
    batch = world.call(ANNA, "POST", "/api/batches", content=json.dumps(line))
    world.names["batch"] = batch.json()["id"]
    until(lambda: world.call(ANNA, "GET", "/api/batches/{batch}").json()["state"] == "finished")
    world.names["job"] = world.call(ANNA, "POST", "/api/jobs", json={"prompt": SECRET, "model": "slow"}).json()["id"]
    until(lambda: world.call(ANNA, "GET", "/api/jobs/{job}").json()["state"] == "running")
    before = world.state()
    yield world
    assert world.state() == before, "whatever others did, Anna has what she had"
    world.client.close()


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_nothing_of_one_tenant_exists_for_another(world, route):
    ROUTES[route].walk(world, *route.split(" "))


def test_what_anna_sent_with_a_key_is_answered_to_nobody_else(world):
    url = "data:image/png;base64," + base64.b64encode(MINE).decode()
    ask = {"json": {"prompt": SECRET, "image": url}, "headers": {"Idempotency-Key": "of-anna"}}
    assert world.call(ANNA, "POST", "/api/generate", **ask).headers["idempotent-replayed"] == "true"
    assert world.call(READER, "POST", "/api/generate", **ask).status_code == 403
    bens = world.call(BEN, "POST", "/api/generate", **ask)
    assert bens.status_code == 200
    assert "idempotent-replayed" not in bens.headers
    world.check(bens, SECRET)
