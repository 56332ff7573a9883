"""Jobs over HTTP: a real server on a real port, with the fake device."""

import json

import pytest

MODELS = """
server: {default_model: quick}
models:
  quick: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 4, sampler: euler}}
  slow: {source: "fake:?tick=0.2", family: fake, defaults: {width: 64, height: 64, steps: 50, sampler: euler}}
"""


@pytest.fixture(scope="module")
def api(launch, tmp_path_factory):
    return launch(tmp_path_factory.mktemp("jobs"), models=MODELS).until_ready().client


@pytest.fixture
def until(api, until):
    """The job, once it is in a state."""

    def in_state(job_id, state):
        def view():
            found = api.get(f"/api/jobs/{job_id}").json()
            return found if found["state"] == state else None

        return until(view, what=f"state {state} of {job_id}")

    return in_state


def events(api, job_id, last=None):
    headers = {} if last is None else {"Last-Event-ID": last}
    found = []
    with api.stream("GET", f"/api/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event = {}
        for line in answer.iter_lines():
            if not line and event:
                found.append(event)
                event = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = json.loads(value) if name == "data" else value
    return found


def test_a_job_is_accepted_done_and_shown(api, until):
    accepted = api.post("/api/jobs", json={"prompt": "a cat", "seeds": [3, 4]})
    assert accepted.status_code == 202
    job_id = accepted.json()["id"]
    assert accepted.headers["location"] == f"/api/jobs/{job_id}"
    view = until(job_id, "succeeded")
    assert (view["seeds"], view["model"], view["attempts"], view["error"]) == ([3, 4], "quick", 1, None)
    assert [image["seed"] for image in view["images"]] == [3, 4]
    assert api.get(view["images"][0]["url"]).content.startswith(b"\x89PNG")
    assert view["timings"]["waited"] >= 0
    assert view["evaluations"] == 16
    assert view["created"] <= view["started"] <= view["finished"]


def test_its_events_tell_the_whole_story_and_go_on_where_they_broke(api):
    job_id = api.post("/api/jobs", json={"prompt": "a cat", "previews": 2}).json()["id"]
    told = events(api, job_id)
    kinds = [event["event"] for event in told]
    assert kinds[:2] == ["queued", "started"]
    assert kinds[-1] == "finished"
    assert kinds.count("progress") == 4
    assert told[-1]["data"]["state"] == "succeeded"
    (preview, *_) = (event["data"] for event in told if event["event"] == "preview")
    assert preview["format"] == "jpeg"
    again = events(api, job_id, last=told[3]["id"])
    assert [event["id"] for event in again] == [event["id"] for event in told[4:]]
    assert events(api, job_id, last="another-life-7")[0]["id"] == told[0]["id"]


def test_cancelling_one_that_runs_and_one_that_is_over(api, until):
    job_id = api.post("/api/jobs", json={"prompt": "a cat", "model": "slow"}).json()["id"]
    until(job_id, "running")
    assert api.delete(f"/api/jobs/{job_id}").status_code == 400
    assert api.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    view = until(job_id, "cancelled")
    assert view["error"]["code"] == "cancelled"
    assert api.post(f"/api/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert api.delete(f"/api/jobs/{job_id}").status_code == 204
    assert api.get(f"/api/jobs/{job_id}").status_code == 404


def test_pages(api, until):
    ids = [api.post("/api/jobs", json={"prompt": f"number {index}"}).json()["id"] for index in range(5)]
    for job_id in ids:
        until(job_id, "succeeded")
    seen, cursor = [], None
    while True:
        query = {"limit": 2, "state": "succeeded"} | ({"cursor": cursor} if cursor else {})
        page = api.get("/api/jobs", params=query).json()
        seen += [job["id"] for job in page["data"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen[:5] == ids[::-1]
    assert len(seen) == len(set(seen))
    assert api.get("/api/jobs", params={"model": "nothing"}).json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("GET", "/api/jobs/nothing", None, 404, "job_id"),
        ("GET", "/api/jobs/nothing/events", None, 404, "job_id"),
        ("POST", "/api/jobs/nothing/cancel", None, 404, "job_id"),
        ("GET", "/api/jobs?limit=0", None, 400, "limit"),
        ("GET", "/api/jobs?cursor=x", None, 400, "cursor"),
        ("POST", "/api/jobs", {"prompt": "x", "webhook": "ftp://x/"}, 400, "webhook"),
        ("POST", "/api/jobs", {"prompt": "x", "webhook": "http://"}, 400, "webhook"),
        ("POST", "/api/jobs", {"prompt": "x", "webhook": "http://a..example/"}, 400, "webhook"),
        ("POST", "/api/jobs", {"prompt": "x", "webhook": f"http://{'a' * 64}.example/"}, 400, "webhook"),
        ("POST", "/api/jobs", {"prompt": "x", "response_format": "b64"}, 400, "response_format"),
        ("POST", "/api/jobs", {"prompt": "x", "steps": 0}, 400, "steps"),
        ("POST", "/api/jobs", {"prompt": "x", "model": "nothing"}, 404, "model"),
    ],
)
def test_what_cannot_be_is_told(api, method, path, body, status, param):  # noqa: PLR0917 - a table
    answer = api.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
