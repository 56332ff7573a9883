"""POST /api/route, and what answers say of their road: with a key and nobody behind it, and without."""

import base64
import io

import pytest
from litestar.testing import TestClient
from PIL import Image

from server.app import build
from server.settings import Settings

MODELS = """
server: {default_model: m}
models: {m: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 8, sampler: euler}}}
loras: {ink: {source: file:ink.safetensors, family: fake}}
aliases: {dall-e-3: auto}
"""
UPSTREAM = 'upstreams: {openai: {base_url: "http://127.0.0.1:9/v1", key_env: null}}\n'
SIGN = 'a neon sign that says "OPEN"'


@pytest.fixture
def opened(tmp_path):
    def start(models=MODELS, *keys):
        (tmp_path / "models.yaml").write_text(models)
        return TestClient(build(Settings(home=tmp_path, models=tmp_path / "models.yaml", devices=("fake",), api_keys=keys)))

    return start


def ask(client, **body):
    answer = client.post("/api/route", json={"prompt": SIGN, "model": "auto", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_without_an_upstream_everything_is_local_and_says_so(opened):
    with opened() as client:
        found = ask(client)
    assert (found["needs_text"], found["score"], found["literals"], found["route"]) == (True, 0.95, ["OPEN"], "local")
    assert found["why"][0] == "no upstream is configured: everything is local"
    assert [road["road"] for road in found["roads"]] == ["local"]


def test_with_one_the_words_decide(opened):
    with opened(MODELS + UPSTREAM) as client:
        words, plain = ask(client), ask(client, prompt="a fox in the snow")
        draft, lora = ask(client, quality="low"), ask(client, loras=["ink"])
        named, own = ask(client, model="openai"), ask(client, model="m")
        alias = ask(client, model="dall-e-3")
    assert [each["route"] for each in (words, plain, draft, lora, named, own, alias)] == [
        "openai",
        "local",
        "local",
        "local",
        "openai",
        "local",
        "openai",
    ]
    assert [(road["road"], road["can"], road["place"]) for road in words["roads"]] == [("local", True, 2), ("openai", True, 1)]
    assert lora["roads"][1]["lacking"] == ["loras"]
    assert "openai cannot: loras" in lora["why"]
    assert draft["roads"][1]["place"] is None


@pytest.mark.parametrize(
    ("policy", "route"), [("local_only", "local"), ("prefer_local", "local"), ("prefer_upstream", "openai"), ("auto", "openai")]
)
def test_a_tenant_s_policy_decides(opened, policy, route):
    with opened(MODELS + UPSTREAM + f"tenants: {{default: {{routing: {{policy: {policy}}}}}}}\n") as client:
        found = ask(client)
    assert (found["policy"], found["route"]) == (policy, route)


def test_the_body_is_that_of_generate(opened):
    target = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(target, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()
    with opened() as client:
        assert ask(client, image=picture, strength=0.5, previews=2)["route"] == "local"
        wrong = client.post("/api/route", json={"prompt": "a", "colour": "red"})
        unknown = client.post("/api/route", json={"prompt": "a", "model": "nobody"})
        form = client.post("/api/route", data={"prompt": SIGN})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "colour")
    assert unknown.status_code == 404
    assert (form.status_code, form.json()["needs_text"]) == (200, True)


def test_it_needs_a_key_and_makes_nothing(opened):
    with opened(MODELS, "secret") as client:
        assert client.post("/api/route", json={"prompt": SIGN}).status_code == 401
        assert client.post("/api/route", json={"prompt": SIGN}, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert "aquatint_routes_total{" not in client.get("/metrics").text


def test_answers_say_their_road_and_why(serve):
    server = serve(models=MODELS).until_ready()
    ours = server.client.post("/api/generate", json={"prompt": SIGN + " ✓", "model": "auto", "quality": "high"}).json()
    assert (ours["route"]["road"], ours["route"]["model"]) == ("local", "m")
    assert ours["route"]["reasons"][0] == "no upstream is configured: everything is local"
    body = {"prompt": "ein Schild: „Grüße, 世界“", "model": "dall-e-3", "quality": "low"}
    theirs = server.client.post("/v1/images/generations", json=body)
    assert theirs.headers["x-aquatint-route"] == "local"
    assert theirs.headers["x-aquatint-route-reason"].startswith(
        "no upstream is configured: everything is local; needs legible text"
    )


def test_a_broken_upstream_is_followed_by_our_own_workers(serve):
    server = serve(models=MODELS + UPSTREAM.replace("key_env: null", "key_env: null, attempts: 1")).until_ready()
    answer = server.client.post("/api/generate", json={"prompt": SIGN, "model": "auto"})
    assert answer.status_code == 200, answer.text
    route = answer.json()["route"]
    assert route["road"] == "local"
    assert [(each["road"], each["code"]) for each in route["tried"]] == [("openai", "upstream_unavailable")]
    assert server.metric('aquatint_routes_total{outcome="upstream_unavailable",road="openai"}') == 1
    named = server.client.post("/api/generate", json={"prompt": SIGN, "model": "openai"})
    assert named.status_code == 503
