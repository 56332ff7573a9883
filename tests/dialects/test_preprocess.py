"""POST /api/preprocess and GET /api/preprocessors, on real servers: with the fake worker, and with the real one on the CPU."""

import base64
import io
import json
import os
import signal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.contract.preprocessing import PREPROCESSORS


def drawn(width=96, height=64, form="PNG"):
    image = Image.new("RGB", (width, height), (10, 20, 60))
    ImageDraw.Draw(image).rectangle((width // 4, height // 4, width // 2, height // 2), fill="white")
    target = io.BytesIO()
    image.save(target, form)
    return target.getvalue()


def data_url(data, media="image/png"):
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def ask(server, accept=None, **body):
    headers = {} if accept is None else {"Accept": accept}
    given = {"image": data_url(drawn()), "preprocessor": "canny"} | body
    return server.client.post("/api/preprocess", json={k: v for k, v in given.items() if v is not None}, headers=headers)


def opened(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(answer.content))


def refused(answer, status, code, param):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    return error["message"]


def test_every_preprocessor_is_listed_with_what_it_takes_and_lacks(fake_server):
    found = fake_server.client.get("/api/preprocessors").json()
    listed = {each["id"]: each for each in found["data"]}
    assert list(listed) == [spec.id for spec in PREPROCESSORS]
    canny, hed = listed["canny"], listed["softedge_hed"]
    assert (canny["ready"], canny["missing"], canny["weights"], canny["makes"]) == (True, None, None, "edges")
    assert [each["name"] for each in canny["parameters"]] == ["resolution", "low_threshold", "high_threshold"]
    assert canny["parameters"][1] | {"meaning": ""} == {
        "name": "low_threshold",
        "kind": "integer",
        "default": 100,
        "least": 1,
        "most": 255,
        "meaning": "",
    }
    assert "hed" in hed["aliases"]
    assert not hed["ready"]
    assert "softedge_hed: {source: hf:" in hed["missing"]
    assert hed["weights"] == {"repo": "lllyasviel/Annotators", "files": ["ControlNetHED.pth"], "source": None}


def test_json_gives_a_png_with_the_pictures_shape(fake_server):
    image = opened(ask(fake_server, options={"resolution": 128}))
    assert (image.size, image.mode) == ((192, 128), "RGB")
    assert opened(ask(fake_server)).size == (768, 512)


def test_a_form_gives_the_same(fake_server):
    files = {"image": ("x.jpg", drawn(form="JPEG"))}
    data = {"preprocessor": "Canny", "options": json.dumps({"resolution": 128})}
    answer = fake_server.client.post("/api/preprocess", files=files, data=data)
    assert opened(answer).size == (192, 128)


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        (None, False),
        ("*/*", False),
        ("image/png", False),
        ("application/json", True),
        ("application/json, image/png", False),
        ("application/json;q=0.5, image/png", False),
        ("image/png;q=0.1, application/json;q=0.9", True),
    ],
)
def test_who_accepts_json_rather_gets_json(fake_server, accept, is_json):
    answer = ask(fake_server, accept, options={"resolution": 64})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json" if is_json else "image/png")
    if is_json:
        told = answer.json()
        assert (told["preprocessor"], told["width"], told["height"]) == ("canny", 96, 64)
        data = base64.b64decode(told["image"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).size == (96, 64)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"preprocessor": "nonsense"}, "invalid_request", "preprocessor"),
        ({"preprocessor": "dwpose"}, "unsupported", "preprocessor"),
        ({"preprocessor": None}, "invalid_request", "preprocessor"),
        ({"image": None}, "invalid_request", "image"),
        ({"image": "https://example.org/x.png"}, "unsupported", "image"),
        ({"image": "data:image/png,abc"}, "bad_picture", "image"),
        ({"image": "data:image/png;base64,%%"}, "bad_picture", "image"),
        ({"image": data_url(b"hello")}, "bad_picture", "image"),
        ({"options": {"low": 1}}, "invalid_request", "options.low"),
        ({"options": {"low_threshold": 900}}, "invalid_request", "options.low_threshold"),
        ({"options": {"low_threshold": "9"}}, "invalid_request", "options"),
        ({"options": {"resolution": 5000}}, "invalid_request", "options.resolution"),
        ({"image": data_url(drawn(8000, 2)), "options": {"resolution": 512}}, "too_large", "options.resolution"),
        ({"strength": 1}, "invalid_request", "strength"),
    ],
)
def test_bad_input_is_refused_by_field(fake_server, body, code, param):
    refused(ask(fake_server, **body), 400, code, param)


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ({}, {"preprocessor": "canny"}, "image"),
        ({"image": ("x.png", drawn())}, {}, "preprocessor"),
        ({"image": ("x.png", drawn())}, {"preprocessor": "canny", "options": "low=1"}, "options"),
        ({"image": ("x.png", drawn())}, {"preprocessor": "canny", "options": '{"low_threshold": "1"}'}, "options"),
        ({"image": ("x.png", drawn())}, {"preprocessor": "canny", "low_threshold": "1"}, "low_threshold"),
    ],
)
def test_bad_forms_are_refused_by_field(fake_server, files, data, param):
    parts = files or {"other": ("y.txt", b"")}
    answer = fake_server.client.post("/api/preprocess", files=parts, data=data)
    refused(answer, 400, "invalid_request", param if files else "other")


def test_missing_weights_name_the_entry_to_write(fake_server):
    message = refused(ask(fake_server, preprocessor="depth"), 400, "unsupported", "preprocessor")
    assert "depth_midas: {source: hf:lllyasviel/Annotators}" in message


def test_uploads_are_bounded(serve):
    server = serve("--max-upload-pixels", "4096").until_ready()
    refused(ask(server), 400, "too_large", "image")


def test_it_is_behind_the_same_keys(serve):
    server = serve(env={"AQUATINT_API_KEYS": "secret-secret-secret"}).until_ready()
    assert ask(server).status_code == 401
    assert server.client.get("/api/preprocessors").status_code == 401
    server.client.headers["Authorization"] = "Bearer secret-secret-secret"
    assert opened(ask(server)).size == (768, 512)


def test_a_dead_worker_is_waited_for(serve):
    server = serve().until_ready()
    os.kill(server.worker_pid(), signal.SIGKILL)
    assert opened(ask(server)).size == (768, 512)


def test_the_document_shows_both_forms_of_body_and_answer(fake_server):
    document = fake_server.client.get("/schema/openapi.json").json()
    operation = document["paths"]["/api/preprocess"]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert set(operation["responses"]["200"]["content"]) == {"image/png", "application/json"}
    assert operation["requestBody"]["content"]["application/json"]["schema"]["required"] == ["image", "preprocessor"]


def test_canny_on_a_real_worker(serve):
    server = serve("--device", "cpu").until_ready(120)
    found = np.asarray(opened(ask(server, options={"resolution": 64})))
    assert found.shape == (64, 96, 3)
    rows, columns = np.nonzero(found[..., 0])
    assert (rows.min(), rows.max()) == pytest.approx((15.5, 32.5), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((23.5, 48.5), abs=2)
    assert not (found[18:31, 27:45]).any()
    assert server.metric("aquatint_preprocess_seconds_count") == 1
