"""The native dialect's models, on a real server with a fake device."""

import httpx
import pytest

MODELS = """
server: {default_model: quick}
models:
  quick: {source: "fake:?load=0.02", family: fake, defaults: {width: 64, height: 64, steps: 4}, qualities: {low: 2}}
  org/slashed: {source: "fake:?load=0.05", family: fake, description: a name with a slash}
  broken: {source: "fake:?fail_load=true", family: fake}
aliases: {dall-e-3: quick, other: org/slashed}
"""


@pytest.fixture
def server(serve):
    return serve(models=MODELS).until_ready()


def model(server, name):
    answer = server.client.get(f"/api/models/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def move(server, name, verb, **query):
    return server.client.post(f"/api/models/{name}/{verb}", params=query)


def test_all_models_with_their_cards_and_states(server):
    answer = server.client.get("/api/models")
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert found["object"] == "list"
    assert found["catalog"]["error"] is None
    assert found["catalog"]["path"].endswith("models.yaml")
    quick, slashed, broken = found["data"]
    assert (quick["id"], quick["default"], quick["aliases"], quick["state"]) == ("quick", True, ["dall-e-3"], "loaded")
    assert quick["defaults"]["steps"] == 4
    assert quick["limits"]["max_steps"] == 150
    assert quick["qualities"] == {"low": 2}
    assert quick["facts"]["family"] == "fake"
    assert quick["workers"][0]["worker"] == "worker-0"
    assert quick["workers"][0]["load_seconds"] >= 0.02
    assert (slashed["id"], slashed["state"], slashed["description"]) == ("org/slashed", "cold", "a name with a slash")
    assert broken["state"] == "cold"
    assert found["workers"][0]["device"] == "fake"
    assert [each["id"] for each in server.client.get("/v1/models").json()["data"]] == ["quick", "org/slashed", "broken"]


def test_loading_and_unloading_by_hand(server, until):
    for _ in range(2):
        answer = move(server, "org/slashed", "load")
        assert answer.status_code == 202
        assert answer.json()["id"] == "org/slashed"
        until(lambda: model(server, "org/slashed")["state"] == "loaded", what="the load")
    assert model(server, "other")["id"] == "org/slashed"
    for _ in range(2):
        assert move(server, "other", "unload", worker="worker-0").status_code == 202
        until(lambda: model(server, "org/slashed")["state"] == "cold", what="the unload")
    assert model(server, "quick")["state"] == "loaded"
    # Gone from the device, not from the catalog: a request brings it back.
    made = server.client.post("/v1/images/generations", json={"prompt": "x", "model": "org/slashed", "size": "64x64", "steps": 2})
    assert made.status_code == 200
    assert model(server, "org/slashed")["state"] == "loaded"
    assert server.metric('aquatint_model_loads_total{model="org/slashed",result="ok"') == 2
    assert server.metric('aquatint_model_load_seconds_count{model="org/slashed"') == 2
    assert server.metric('aquatint_model_unloads_total{model="org/slashed",reason="told"') == 1
    assert server.metric('aquatint_models{state="loaded"') == 2


def test_the_default_model_may_be_unloaded_and_the_server_stays_ready(server, until):
    move(server, "quick", "unload")
    until(lambda: model(server, "quick")["state"] == "cold", what="the unload")
    assert server.ready()["ready"]
    assert server.client.post("/v1/images/generations", json={"prompt": "x"}).status_code == 200


def test_a_failed_load_is_shown_and_tried_again_only_by_hand(server, until):
    move(server, "broken", "load")
    until(lambda: model(server, "broken")["state"] == "failed", what="the failure")
    assert model(server, "broken")["workers"][0]["error"] == "Model 'broken' was told to fail."
    for _ in range(2):
        refused = server.client.post("/v1/images/generations", json={"prompt": "x", "model": "broken"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "model_load_failed")
    assert server.metric('aquatint_model_loads_total{model="broken",result="failed"') == 1
    move(server, "broken", "load")
    until(lambda: server.metric('aquatint_model_loads_total{model="broken",result="failed"') == 2, what="the second try")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/models/nothing", 404, "model_not_found"),
        ("POST", "/api/models/nothing/load", 404, "model_not_found"),
        ("POST", "/api/models/quick/explode", 400, "invalid_request"),
        ("POST", "/api/models/load", 400, "invalid_request"),
        ("POST", "/api/models/quick/load?worker=worker-7", 400, "invalid_request"),
        ("DELETE", "/api/models/quick", 405, "method_not_allowed"),
        ("GET", "/api/nothing", 404, "not_found"),
    ],
)
def test_errors_have_the_native_envelope(fake_server, method, path, status, code):
    answer = fake_server.client.request(method, path.replace("quick", "demo"))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "param", "retryable"}
    assert error["code"] == code


def test_keys_are_needed_as_elsewhere(serve):
    server = serve(models=MODELS, env={"AQUATINT_API_KEY": "secret"})
    for method, path in (("GET", "/api/models"), ("GET", "/api/models/quick"), ("POST", "/api/models/quick/load")):
        refused = server.client.request(method, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        allowed = httpx.request(method, server.url + path, headers={"Authorization": "Bearer secret"})
        assert allowed.status_code in (200, 202)
