"""The character that PostgreSQL's texts cannot have, wherever a client can write a name: refused in words, never a mistake."""

import json
import re

import pytest

MODELS = 'server: {default_model: m}\nmodels: {m: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 2}}}\n'


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory, postgres):
    # The database that every PostgreSQL has; nobody else uses it.
    return launch(
        tmp_path_factory.mktemp("nul"),
        *("--database-url", re.sub(r"^postgres(ql)?:", "postgresql+asyncpg:", postgres)),
        *("--moderation-prompts",),
        models=MODELS,
    ).until_ready()


def operations(server):
    """Every route of the document, method by method, and what it takes."""
    document = server.client.get("/schema/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("get", "post", "put", "delete", "head"):
                yield method, path, operation.get("parameters", [])


def refused(answer, *statuses):
    """That it is an error in the words of its dialect, which has not so much as looked for anything."""
    assert answer.status_code in statuses, (answer.request.url, answer.text)
    if answer.request.method != "HEAD":
        body = answer.json()
        assert {"code", "message"} <= body["error"].keys() if "error" in body else "detail" in body


def test_in_every_address(server):
    tried = 0
    for method, path, _ in operations(server):
        for name in re.findall(r"\{(\w+)\}", path):
            for value in ("%00", "job%00", "a%00.png"):
                address = re.sub(r"\{\w+\}", "x", path.replace(f"{{{name}}}", value))
                refused(server.client.request(method, address), 404)
                tried += 1
    assert tried > 30
    refused(server.client.get("/nowhere%00"), 404)


def test_in_every_parameter(server):
    tried = 0
    for method, path, parameters in operations(server):
        for parameter in parameters:
            if parameter["in"] == "query":
                address = re.sub(r"\{\w+\}", "x", path)
                refused(server.client.request(method, f"{address}?{parameter['name']}=0_a%00b"), 400)
                tried += 1
    assert tried > 15


def test_what_no_route_takes_harms_nothing(server):
    assert server.client.get("/api/jobs?other=%00").status_code == 200


def test_in_what_is_sent(server, until):
    lines = [{"custom_id": "a\0b", "body": {"prompt": "a cat"}}]
    sent = "".join(json.dumps(line) + "\n" for line in lines)
    answer = server.client.post("/api/batches", content=sent, headers={"Content-Type": "application/x-ndjson"})
    refused(answer, 400)
    assert [(line["line"], line["param"]) for line in answer.json()["error"]["lines"]] == [(1, "custom_id")]
    for webhook in ("https://shop.example/\0", "https://shop.example/\x7f", "https://shop.example/a b"):
        refused(server.client.post("/api/jobs", json={"prompt": "a cat", "webhook": webhook}), 400)
    for body in ({"prompt": "x", "model": "m\0"}, {"prompt": "x", "loras": ["a\0"]}, {"prompt": "x", "image": "asset_\0"}):
        for path in ("/api/generate", "/api/jobs"):
            refused(server.client.post(path, json=body), 400, 404)
    refused(server.client.post("/v1/images/generations", json={"prompt": "x", "model": "m\0"}), 400, 404)


def test_a_prompt_may_have_it(server, until):
    """It is kept as bytes, and where it is kept as text, for the operator, something stands in its place."""
    assert server.client.post("/api/generate", json={"prompt": "a \0 cat"}).status_code == 200
    assert server.client.post("/api/generate", json={"prompt": "violence \0 and massacre"}).status_code in (200, 400)
    decided = server.client.get("/api/moderation").json()["data"]
    assert "violence \ufffd and massacre" in [each["prompt"] for each in decided]
    job = server.client.post("/api/jobs", json={"prompt": "a \0 cat"}).json()["id"]
    until(lambda: server.client.get(f"/api/jobs/{job}").json()["state"] == "succeeded")
