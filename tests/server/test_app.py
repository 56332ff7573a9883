"""The composition, without a server around it."""

import json
import subprocess
import sys

import pytest
from litestar.testing import TestClient

from server.app import build
from server.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, devices=("fake",))


def test_importing_the_app_imports_neither_torch_nor_numpy():
    code = "import sys, server.app, server.cli\n"
    code += "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy', 'diffusers'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_openapi_document_describes_the_dialect_and_loads_nothing_from_elsewhere(settings):
    with TestClient(build(settings)) as client:
        document = client.get("/schema/openapi.json")
        pages = {path: client.get(path) for path in ("/schema", "/schema/swagger", "/schema/redoc", "/schema/elements")}
    paths = document.json()["paths"]
    assert {"/v1/images/generations", "/v1/images/edits", "/v1/models", "/v1/models/{model_id}"} <= set(paths)
    body = paths["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "negative_prompt" in json.dumps(body)
    edit = paths["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert set(edit) == {"multipart/form-data", "application/json"}
    assert "://" not in document.text.replace("https://spec.openapis.org", "")
    assert all("cdn" not in page.text and page.status_code in (200, 404) for page in pages.values())


def test_keys_open_the_dialect_and_nothing_else_needs_one(settings):
    import msgspec

    locked = msgspec.structs.replace(settings, api_keys=("first", "second"))
    with TestClient(build(locked)) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first"}, {"Authorization": "Bearer"}):
            refused = client.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
            assert refused.headers["www-authenticate"] == "Bearer"
            assert "x-request-id" in refused.headers
        for headers in ({"Authorization": "Bearer first"}, {"authorization": "bearer second"}, {"api-key": "first"}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        assert client.post("/v1/images/generations", json={"prompt": "x"}).status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics").status_code == 200


def test_metrics_are_there_from_the_beginning(settings):
    with TestClient(build(settings)) as client:
        client.get("/v1/models")
        client.get("/v1/models/x/y/z")
        client.get("/random-address")
        text = client.get("/metrics").text
    for name in ("worker_restarts_total", "out_of_memory_total", "worker_state", "queue_images", "decode_seconds_count"):
        assert f"aquatint_{name}" in text
    assert 'aquatint_requests_total{method="GET",route="/v1/models",status="200"} 1.0' in text
    assert 'route="/v1/models/{model_id}",status="404"' in text
    assert 'route="none",status="404"' in text
    assert "random-address" not in text


def test_two_apps_in_one_process_share_nothing(settings):
    with TestClient(build(settings)) as one, TestClient(build(settings)) as other:
        one.get("/v1/models")
        assert "/v1/models" not in other.get("/metrics").text


def test_a_clients_own_request_id_is_taken_if_it_is_harmless(settings):
    with TestClient(build(settings)) as client:
        assert client.get("/healthz", headers={"x-client-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        assert client.get("/healthz", headers={"x-client-request-id": "a b"}).headers["x-request-id"].startswith("req_")
