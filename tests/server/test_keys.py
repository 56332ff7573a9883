"""Keys: what each opens, and how soon one that is revoked opens nothing."""

import base64
from contextlib import asynccontextmanager

import msgspec
import pytest
from litestar.testing import AsyncTestClient

from server.access.keys import FRESH_SECONDS, KeyRing, digest, new_secret
from server.app import Exposed, application, assemble, check_exposure
from server.db.database import Database, beside
from server.db.keys import SqlKeys
from server.db.migrating import migrate
from server.domain.clock import SetClock
from server.domain.key import Caller, Key, Scope
from server.settings import Settings
from server.telemetry.logs import silent


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, devices=("fake",))


@pytest.fixture
async def repository(tmp_path):
    database = Database(beside(tmp_path))
    await migrate(database)
    yield SqlKeys(database)
    await database.close()


def key(name="key_1", **fields):
    return msgspec.structs.replace(Key(name, "shop", "", (Scope.GENERATE,), 1.0), **fields)


async def test_a_key_is_known_by_its_secret_until_it_is_revoked(repository):
    clock, secret = SetClock(100.0), new_secret()
    ring = KeyRing((), repository, clock, may_be_open=False)
    assert await ring.caller(secret) is None
    await repository.add(key(models=("sdxl",)), digest(secret))
    clock.advance(FRESH_SECONDS)
    assert await ring.caller(secret) == Caller("shop", frozenset({Scope.GENERATE}), frozenset({"sdxl"}))
    assert await ring.caller(secret + "x") is None
    assert await ring.caller(None) is None
    assert await repository.revoke("key_1", 101.0)
    clock.advance(FRESH_SECONDS)
    assert await ring.caller(secret) is None


async def test_a_key_expires(repository):
    clock, secret = SetClock(100.0), new_secret()
    ring = KeyRing((), repository, clock, may_be_open=False)
    await repository.add(key(expires=150.0), digest(secret))
    assert await ring.caller(secret) is not None
    clock.advance(50.0)
    assert await ring.caller(secret) is None


async def test_the_first_key_locks_what_was_open_and_the_last_one_opens_nothing_that_was_locked(repository):
    clock, secret = SetClock(100.0), new_secret()
    at_home = KeyRing((), repository, clock, may_be_open=True)
    outside = KeyRing((), repository, clock, may_be_open=False)
    assert (await at_home.caller(None)).tenant == "local"
    assert await outside.caller(None) is None
    await repository.add(key(), digest(secret))
    clock.advance(FRESH_SECONDS)
    assert await at_home.caller(None) is None
    assert (await at_home.caller(secret)).tenant == "shop"
    await repository.revoke("key_1", 101.0)
    clock.advance(FRESH_SECONDS)
    assert await outside.caller(None) is None


def test_scopes():
    def caller(*scopes):
        return Caller("t", frozenset(scopes))

    assert caller(Scope.GENERATE).may(Scope.JOBS_READ)
    assert not caller(Scope.JOBS_READ).may(Scope.GENERATE)
    assert not caller(Scope.GENERATE).may(Scope.ADMIN)
    assert all(caller(Scope.ADMIN).may(scope) for scope in Scope)


@asynccontextmanager
async def served(settings, *made):
    """A client of a server with the keys ``made``: (key, secret) each."""
    parts = assemble(settings, silent())
    await migrate(parts.database)
    for each, secret in made:
        await SqlKeys(parts.database).add(each, digest(secret))
    async with AsyncTestClient(application(parts)) as client:
        yield client


async def test_each_key_opens_what_it_says(settings):
    reader, maker, picky, boss = (new_secret() for _ in range(4))
    made = (
        (key("r", scopes=(Scope.JOBS_READ,)), reader),
        (key("m"), maker),
        (key("p", models=("another",)), picky),
        (key("b", scopes=(Scope.ADMIN,)), boss),
    )
    async with served(settings, *made) as client:

        async def status(secret, method="GET", path="/v1/models", **rest):
            answer = await client.request(method, path, headers={"Authorization": f"Bearer {secret}"}, **rest)
            return answer.status_code

        draw = {"method": "POST", "path": "/v1/images/generations", "json": {"prompt": "x"}}
        assert await status(reader, **draw) == 403
        assert await status(picky, **draw) == 403
        assert await status("nothing") == 401
        assert await status(maker) == 200
        model = (await client.get("/v1/models", headers={"Authorization": f"Bearer {maker}"})).json()["data"][0]["id"]
        load = {"method": "POST", "path": f"/api/models/{model}/load"}
        assert await status(maker, **load) == 403
        assert await status(boss, **load) == 202
        basic = base64.b64encode(f"anybody:{maker}".encode()).decode()
        assert (await client.get("/v1/models", headers={"Authorization": f"Basic {basic}"})).status_code == 200
        assert (await client.get("/v1/models", headers={"Authorization": "Basic !!"})).status_code == 401


ROADS = """
server: {default_model: m, fallback: [openai]}
models: {m: {source: "fake:", family: fake}}
upstreams: {openai: {base_url: "http://127.0.0.1:9/v1", key_env: null}}
aliases: {dall-e-3: auto}
"""


async def test_who_leaves_the_choice_to_the_server_gets_no_more_than_the_key_opens(tmp_path):
    (tmp_path / "models.yaml").write_text(ROADS)
    settings = Settings(home=tmp_path, models=tmp_path / "models.yaml", devices=("fake",))
    narrow, chooser, wide = (new_secret() for _ in range(3))
    made = (
        (key("n", models=("m",)), narrow),
        (key("c", models=("m", "auto")), chooser),
        (key("w", models=("m", "auto", "openai")), wide),
    )
    sign = 'a neon sign that says "OPEN"'
    async with served(settings, *made) as client:

        async def ask(secret, model, path="/api/route"):
            return await client.post(path, json={"prompt": sign, "model": model}, headers={"Authorization": f"Bearer {secret}"})

        for path in ("/api/route", "/api/generate", "/api/jobs", "/v1/images/generations"):
            for model in ("auto", "dall-e-3", "openai"):
                refused = await ask(narrow, model, path)
                assert (refused.status_code, refused.json()["error"]["param"]) == (403, "model"), (path, model)
        found = {secret: (await ask(secret, "auto")).json() for secret in (chooser, wide)}
        assert (found[chooser]["route"], found[wide]["route"]) == ("local", "openai")
        assert [(road["road"], road["can"], road["place"]) for road in found[chooser]["roads"]][1] == ("openai", False, None)
        named = (await ask(narrow, "m")).json()
        assert [road["place"] for road in named["roads"]] == [1, None], "nor does a fallback"


async def test_a_server_that_others_reach_needs_a_key_or_a_word(settings):
    outside = msgspec.structs.replace(settings, host="0.0.0.0")
    parts = assemble(outside, silent())
    try:
        await migrate(parts.database)
        with pytest.raises(Exposed, match="aquatint keys create"):
            await check_exposure(parts)
        await SqlKeys(parts.database).add(key(), digest("x"))
        again = assemble(outside, silent())
        await check_exposure(again)
        await again.database.close()
        await check_exposure(assemble(msgspec.structs.replace(outside, open_access=True), silent()))
        await check_exposure(assemble(msgspec.structs.replace(outside, api_keys=("k",)), silent()))
    finally:
        await parts.database.close()


async def test_a_key_of_the_settings_is_the_same_tenant_wherever_it_stands(repository):
    async def tenant(*keys):
        ring = KeyRing(keys, repository, SetClock(100.0), may_be_open=False)
        return (await ring.caller("mine")).tenant

    assert await tenant("mine", "yours") == await tenant("yours", "mine")
    assert (
        await tenant("mine") != (await KeyRing(("yours",), repository, SetClock(1.0), may_be_open=False).caller("yours")).tenant
    )
