"""Batches over HTTP: a real server on a real port, with the fake device."""

import base64
import io
import json

import pytest
from PIL import Image

from tests.conftest import wait_until

MODELS = """
server: {default_model: quick}
models:
  quick: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 4, sampler: euler}, limits: {max_images: 4}}
  slow: {source: "fake:?tick=0.1", family: fake, defaults: {width: 64, height: 64, steps: 50, sampler: euler}}
"""
JSONL = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def api(launch, tmp_path_factory):
    flags = ("--batch-lines", "200", "--batch-bytes", "300k")
    return launch(tmp_path_factory.mktemp("batches"), *flags, models=MODELS).until_ready().client


@pytest.fixture
def until(api, until):
    """The batch, once it is in a state."""

    def in_state(batch_id, state):
        def view():
            found = api.get(f"/api/batches/{batch_id}").json()
            return found if found["state"] == state else None

        return until(view, 60, what=f"state {state} of {batch_id}")

    return in_state


def lines(*bodies, head=None):
    told = [] if head is None else [json.dumps(head)]
    told += [json.dumps({"custom_id": f"line-{index}", "body": body}) for index, body in enumerate(bodies)]
    return "\n".join(told) + "\n"


def send(api, *bodies, head=None):
    answer = api.post("/api/batches", content=lines(*bodies, head=head), headers=JSONL)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def results(api, batch_id, **query):
    answer = api.get(f"/api/batches/{batch_id}/results", params=query)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def png(size=(64, 64), colour="red"):
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "PNG")
    return target.getvalue()


def test_a_file_of_requests_becomes_a_file_of_results(api, until):
    bodies = [{"prompt": f"number {index}", "seeds": [index, index + 100]} for index in range(70)]
    answer = api.post("/api/batches", content=lines(*bodies), headers=JSONL)
    batch_id = answer.json()["id"]
    assert answer.headers["location"] == f"/api/batches/{batch_id}"
    assert (answer.json()["lines"], answer.json()["images"], answer.json()["state"]) == (70, 140, "running")
    view = until(batch_id, "finished")
    assert (view["counts"]["succeeded"], view["progress"], view["estimated_end"]) == (70, 1.0, None)
    assert view["created"] <= view["finished"]
    told = results(api, batch_id)
    assert [each["line"] for each in told] == list(range(1, 71))
    assert [each["custom_id"] for each in told] == [f"line-{index}" for index in range(70)]
    assert [[image["seed"] for image in each["images"]] for each in told] == [body["seeds"] for body in bodies]
    assert api.get(told[0]["images"][0]["url"]).content.startswith(b"\x89PNG")
    assert [each["line"] for each in results(api, batch_id, after=68)] == [69, 70]
    page = api.get("/api/jobs", params={"batch": batch_id, "limit": 100}).json()["data"]
    assert {job["id"] for job in page} == {each["job"] for each in told}
    assert {job["batch"] for job in page} == {batch_id}
    assert batch_id in [each["id"] for each in api.get("/api/batches").json()["data"]]
    assert api.delete(f"/api/batches/{batch_id}").status_code == 204
    assert api.get(f"/api/batches/{batch_id}").status_code == 404
    assert batch_id not in [each["id"] for each in api.get("/api/batches").json()["data"]]


def test_a_deleted_batch_takes_its_jobs_and_pictures_along(api, until):
    batch_id = send(api, *[{"prompt": "x", "seed": index} for index in range(3)])
    until(batch_id, "finished")
    told = results(api, batch_id)
    assert api.delete(f"/api/batches/{batch_id}").status_code == 204
    for each in told:
        for path in (each["images"][0]["url"], f"/api/jobs/{each['job']}"):
            wait_until(lambda path=path: api.get(path).status_code == 404, 60, what=f"{path} is gone")


def test_a_head_says_what_goes_for_all_lines(api, until):
    head = {"defaults": {"prompt": "a mug", "steps": 2, "output": {"format": "jpeg", "quality": 80}}}
    batch_id = send(
        api, {}, {"prompt": "a cup", "steps": 3, "output": {"quality": 50}}, {"output": {"format": "webp"}}, head=head
    )
    until(batch_id, "finished")
    told = results(api, batch_id)
    assert [each["line"] for each in told] == [2, 3, 4], "lines are those of the file"
    assert [each["images"][0]["format"] for each in told] == ["jpeg", "jpeg", "webp"]
    jobs = [api.get(f"/api/jobs/{each['job']}").json() for each in told]
    assert [job["evaluations"] for job in jobs] == [4, 6, 4]


def test_a_form_and_what_openai_s_files_say(api, until):
    line = {"custom_id": "x", "method": "POST", "url": "/api/generate", "body": {"seed": 3}}
    file = b"\xef\xbb\xbf" + json.dumps(line).encode() + b"\r\n\r\n"
    answer = api.post("/api/batches", files={"file": ("a.jsonl", file)}, data={"defaults": '{"prompt": "a mug"}'})
    assert answer.status_code == 202, answer.text
    until(answer.json()["id"], "finished")
    (told,) = results(api, answer.json()["id"])
    assert (told["custom_id"], told["images"][0]["seed"]) == ("x", 3)


def test_pictures_are_the_batch_s_own(api, until):
    asset = api.post("/api/assets", content=png(colour="blue")).json()["id"]
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    bodies = [{"image": asset}, {"image": url, "mask": url}, *[{"strength": 0.5, "seed": index} for index in range(20)]]
    batch_id = send(api, *bodies, head={"defaults": {"prompt": "a mug", "image": asset}})
    assert api.delete(f"/api/assets/{asset}").status_code == 204
    view = until(batch_id, "finished")
    assert view["counts"]["succeeded"] == 22, results(api, batch_id)


def test_all_or_nothing_with_every_wrong_line_told(api):
    before = api.get("/api/batches").json()["data"]
    body = lines({"prompt": "x"}, {"prompt": "x", "stepz": 1}, {"prompt": "x", "model": "nothing"})
    body += '{"custom_id": "line-0", "body": {"prompt": "x"}}\n{"custom_id": "y", "body": {"prompt": "x"}, "url": "/v1/x"}\n[]\n{'
    answer = api.post("/api/batches", content=body, headers=JSONL)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_batch", "stepz")
    assert [(each["line"], each["custom_id"], each["param"]) for each in error["lines"]] == [
        (2, "line-1", "stepz"),
        (3, "line-2", "model"),
        (4, "line-0", "custom_id"),
        (5, None, "url"),
        (6, None, None),
        (7, None, None),
    ]
    assert api.get("/api/batches").json()["data"] == before
    many = api.post("/api/batches", content="{}\n" * 100, headers=JSONL).json()["error"]
    assert len(many["lines"]) == 20


@pytest.mark.parametrize(
    ("body", "headers", "status", "param"),
    [
        ("", JSONL, 400, "file"),
        ('{"defaults": {"prompt": "x"}}', JSONL, 400, "file"),
        ('{"defaults": {"stepz": 1}}\n' + lines({"prompt": "x"}), JSONL, 400, "stepz"),
        ('{"webhook": "ftp://x/"}\n' + lines({"prompt": "x"}), JSONL, 400, "webhook"),
        (lines({"prompt": "x", "response_format": "b64"}), JSONL, 400, "response_format"),
        (lines({"prompt": "x", "previews": 2}), JSONL, 400, "previews"),
        (lines({"prompt": "x", "image": "asset_nothing"}), JSONL, 400, "image"),
        (lines(*[{"prompt": "x"}] * 201), JSONL, 400, "file"),
        ("x" * 400_000, JSONL, 413, None),
        ("a=b", {"content-type": "application/x-www-form-urlencoded"}, 400, None),
    ],
)
def test_what_cannot_be_is_told(api, body, headers, status, param):
    answer = api.post("/api/batches", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_forms_that_say_too_much(api):
    for files, data, param in (
        ({"file": b"{}", "other": b"{}"}, {}, "other"),
        ({"other": b"{}"}, {}, "other"),
        ({}, {"file": "{}"}, "file"),
        ({"file": lines({}, head={"webhook": "http://x/"}).encode()}, {"webhook": "http://x/"}, "defaults"),
    ):
        answer = api.post("/api/batches", files=files or {"": b""}, data=data)
        found = answer.json()["error"]
        assert (answer.status_code, found["param"]) in {(400, param), (400, "")}, answer.text


@pytest.mark.parametrize("path", ["nothing", "0" * 24, "%00", "nothing/results", "0" * 24 + "/results"])
def test_what_does_not_exist(api, path):
    assert api.get(f"/api/batches/{path}").status_code == 404


def test_results_from_where(api):
    assert api.get(f"/api/batches/{'0' * 24}/results?after=-1").status_code == 400
    assert api.get(f"/api/batches/{'0' * 24}/results?after={1 << 40}").status_code == 400


def test_cancelling_stops_what_runs_and_begins_nothing_more(api, until):
    batch_id = send(api, *[{"prompt": "x", "model": "slow"}] * 90)
    assert api.delete(f"/api/batches/{batch_id}").status_code == 400
    assert api.post(f"/api/batches/{batch_id}/cancel").json()["counts"]["waiting"] == 0
    view = until(batch_id, "cancelled")
    assert sum(view["counts"].values()) == 90
    assert view["counts"]["cancelled"] >= 80
    told = results(api, batch_id)
    assert len(told) == 90
    assert {each["error"]["code"] for each in told if each["state"] == "cancelled"} == {"cancelled"}
    assert api.post(f"/api/batches/{batch_id}/cancel").json()["state"] == "cancelled"
    assert api.delete(f"/api/batches/{batch_id}").status_code == 204


def test_whoever_waits_goes_first(api, until):
    batch_id = send(api, *[{"prompt": "x", "model": "slow"}] * 150)
    for _ in range(3):
        answer = api.post("/api/generate", json={"prompt": "quick"})
        assert answer.status_code == 200
    view = api.get(f"/api/batches/{batch_id}").json()
    assert view["state"] == "running"
    assert view["counts"]["waiting"] > 0
    assert view["estimated_end"] > view["created"]
    assert api.post("/api/jobs", json={"prompt": "not refused"}).status_code == 202
    api.post(f"/api/batches/{batch_id}/cancel")
    until(batch_id, "cancelled")
