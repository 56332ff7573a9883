"""GET /api/usage and POST /api/estimate on a real server with a fake device."""

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

MODELS = """
server: {default_model: m, prices: {gpu_hour_usd: 3600}}
models:
  m: {source: "fake:?tick=0.01", family: fake, defaults: {width: 64, height: 64, steps: 4}, limits: {max_images: 4}}
  own: {source: "fake:", family: fake, defaults: {width: 64, height: 64, steps: 4}, prices: {per_megapixel_step: 0.25}}
upstreams:
  openai: {model: gpt-image-2, monthly_budget_usd: 20}
  riddle: {kind: openai, model: nobody-knows}
tenants:
  acme: {budget: {monthly_usd: 5, per_upstream: {openai: 2}}}
  small: {budget: {monthly_usd: 0.01}, limits: {images_per_day: 5}}
  inner: {routing: {policy: local_only}}
"""


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory):
    server = launch(tmp_path_factory.mktemp("usage"), models=MODELS, env={"AQUATINT_API_KEY": "boss"})
    server.client.headers["authorization"] = "Bearer boss"
    server.until_ready()
    yield server
    assert server.stop() == 0


def command(server, *words):
    """What ``aquatint`` prints about the server's database."""
    aquatint = Path(sys.executable).with_name("aquatint")
    done = subprocess.run([aquatint, *words, "--home", server.home], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def made(server, **body):
    answer = server.client.post("/api/generate", json={"prompt": "p", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def used(server, **params):
    answer = server.client.get("/api/usage", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def spent(server):
    """What two requests cost."""
    return [made(server, count=3)["usage"], made(server, model="own", count=1)["usage"]]


def test_an_answer_says_what_it_cost(spent):
    by_time, by_work = spent
    assert by_time["gpu_seconds"] > 0.03
    assert by_time["usd"] == pytest.approx(by_time["gpu_seconds"], abs=1e-3), "a dollar a second"
    assert by_work["usd"] == pytest.approx(0.25 * 64 * 64 * 8 / 1e6)
    assert by_time["output_tokens"] == 0


@pytest.mark.usefixtures("spent")
def test_a_job_says_so_too(server, until):
    job = server.client.post("/api/jobs", json={"prompt": "p"}).json()["id"]
    view = until(lambda: (found := server.client.get(f"/api/jobs/{job}").json())["state"] == "succeeded" and found)
    assert view["usage"]["usd"] > 0


def test_usage_adds_up_by_road_and_model(server, spent):
    report = used(server, group="model")
    lines = {line["model"]: line for line in report["data"]}
    assert set(lines) == {"m", "own"}
    assert lines["own"]["images"] == 1
    assert lines["own"]["usd"] == pytest.approx(spent[1]["usd"])
    assert lines["own"]["period"] is None
    assert lines["m"]["images"] >= 3
    assert lines["m"]["usd"] >= spent[0]["usd"] - 1e-6
    for group in ("day", "month"):
        of_days = used(server, group=group, since="2026-01-01")
        assert sum(line["usd"] for line in of_days["data"]) == pytest.approx(report["compare"][0]["usd"]), "added up elsewhere"
    (road,) = report["compare"]
    assert (road["road"], road["images"]) == ("local", sum(line["images"] for line in report["data"]))
    assert road["usd_per_image"] == pytest.approx(road["usd"] / road["images"])
    assert report["budgets"] == []


@pytest.mark.usefixtures("spent")
def test_usage_is_told_by_day_and_month_and_as_a_table(server):
    today = datetime.now(tz=UTC).date()
    days = {line["period"] for line in used(server, group="day", since="2026-01-01")["data"]}
    assert {datetime.fromisoformat(day).date() for day in days} <= {today, datetime.now(tz=UTC).date()}
    assert used(server, since="2020-01-01", until="2020-02-01")["data"] == []
    assert {len(line["period"]) for line in used(server)["data"]} == {7}
    answer = server.client.get("/api/usage", headers={"accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {row["model"] for row in rows} == {"m", "own"}
    assert all(float(row["usd"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"since": "yesterday"}, "since"),
        ({"since": "nan"}, "since"),
        ({"until": "1e400"}, "until"),
        ({"since": "2026-02-01", "until": "2026-01-01"}, "until"),
        ({"since": "1970-01-01", "until": "2026-01-01"}, "until"),
        ({"group": "year"}, None),
    ],
)
def test_what_cannot_be_read_is_refused(server, params, param):
    answer = server.client.get("/api/usage", params=params)
    assert answer.status_code == 400
    assert param is None or answer.json()["error"]["param"] == param


def test_a_tenant_sees_itself_and_an_admin_all(server, until):
    secret = command(server, "keys", "create", "--tenant", "acme")
    acme = {"authorization": f"Bearer {secret}"}

    def seen():
        return server.client.get("/api/usage", headers=acme).status_code == 200

    until(seen)
    assert server.client.post("/api/generate", json={"prompt": "p"}, headers=acme).status_code == 200
    report = server.client.get("/api/usage", headers=acme).json()
    assert {line["tenant"] for line in report["data"]} == {"acme"}
    assert [(each["upstream"], each["limit_usd"], each["left_usd"]) for each in report["budgets"]] == [
        (None, 5.0, 5.0),
        ("openai", 2.0, 2.0),
    ]
    assert server.client.get("/api/usage", params={"tenant": "*"}, headers=acme).status_code == 403
    everybody = used(server, tenant="*", group="model")
    assert "acme" in {line["tenant"] for line in everybody["data"]}
    assert [(each["tenant"], each["upstream"], each["limit_usd"]) for each in everybody["budgets"]] == [(None, "openai", 20.0)]
    assert {line["tenant"] for line in used(server, tenant="acme")["data"]} == {"acme"}


@pytest.mark.usefixtures("spent")
def test_an_estimate_is_the_guides_formula_on_every_road(server):
    plan = {"variants": 3, "retries": 0.5, "images_per_month": 1000, "quality": "low"}
    body = {"prompt": "a cat", "size": "64x64", "count": 2, **plan}
    answer = server.client.post("/api/estimate", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["images"], found["month_images"]) == (9, 4500)
    local, openai, riddle = found["roads"]
    assert (local["road"], local["model"]) == ("local", "m")
    each = local["usd_per_image"]["low"]
    assert each > 0
    assert local["usd"]["high"] == pytest.approx(9 * each)
    assert local["month_usd"]["high"] == pytest.approx(4500 * each)
    assert local["month_gpu_hours"] == pytest.approx(4500 * each / 3600, abs=1e-3)
    assert local["seconds"]["work"] == pytest.approx(9 * each, abs=2e-3)
    assert 0.003 < openai["usd_per_image"]["low"] <= openai["usd_per_image"]["high"] < 0.008
    assert openai["month_usd"]["low"] == pytest.approx(4500 * openai["usd_per_image"]["low"])
    assert openai["seconds"] is None
    assert riddle["usd"] is None
    assert "nobody-knows" in riddle["why"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"variants": 0}, "variants"),
        ({"retries": -1}, "retries"),
        ({"images_per_month": -5}, "images_per_month"),
        ({"steps": 0}, "steps"),
        ({"varients": 2}, "varients"),
    ],
)
def test_an_estimate_refuses_what_generate_would(server, body, param):
    answer = server.client.post("/api/estimate", json={"prompt": "p", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def estimated(server, key=None, **body):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = server.client.post("/api/estimate", json={"prompt": "p", "quality": "low", **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found, [(each["part"], each["road"], each["code"], each["param"]) for each in found["obstacles"]]


def key_of(server, until, tenant, *words):
    secret = command(server, "keys", "create", "--tenant", tenant, *words)
    until(lambda: server.client.get("/api/usage", headers={"authorization": f"Bearer {secret}"}).status_code == 200)
    return secret


RIDDLE = ("request", "riddle", "upstream_misconfigured", None)


def test_an_estimate_tells_what_the_model_s_limits_say_to_it(server):
    assert estimated(server)[1] == []
    found, obstacles = estimated(server, size="2048x2048", count=8, steps=400)
    assert sorted(obstacles) == [("request", None, "too_large", name) for name in ("count", "size", "steps")]
    assert found["images"] == 8
    assert any("at most 1048576" in each["message"] for each in found["obstacles"])
    for wrong, param in (({"size": "2047x2048"}, "size"), ({"count": 8, "steps": 0}, "steps"), ({"count": 100_000}, "count")):
        answer = server.client.post("/api/estimate", json={"prompt": "p", **wrong})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), "no road can do that"


def test_an_estimate_tells_what_the_key_may_not_use(server, until):
    narrow = key_of(server, until, "inner2", "--model", "m")
    _, obstacles = estimated(server, narrow)
    assert obstacles == [("request", "openai", "forbidden", "model"), ("request", "riddle", "forbidden", "model")]
    _, obstacles = estimated(server, narrow, model="own")
    assert obstacles[0] == ("request", None, "forbidden", "model")
    _, obstacles = estimated(server, key_of(server, until, "inner"))
    assert obstacles == [("request", name, "invalid_request", "model") for name in ("openai", "riddle")]


def test_an_estimate_tells_what_quota_and_budgets_do_not_cover(server, until):
    small = key_of(server, until, "small")
    assert estimated(server, small)[1] == [RIDDLE]
    made = server.client.post("/api/generate", json={"prompt": "p", "count": 2}, headers={"authorization": f"Bearer {small}"})
    assert made.status_code == 200
    found, obstacles = estimated(server, small, variants=4, images_per_month=50)
    assert obstacles == [
        ("request", None, "quota_spent", None),
        ("month", None, "quota_spent", None),
        ("request", "openai", "budget_spent", None),
        ("month", "openai", "budget_spent", None),
        RIDDLE,
    ]
    today = found["obstacles"][0]
    assert "3 are left" in today["message"]
    assert 0 < today["retry_after"] <= 86_400
    assert "0.0100 US dollars" in found["obstacles"][2]["message"]
    _, obstacles = estimated(server, images_per_month=1_000_000)
    assert obstacles == [("month", "openai", "budget_spent", None)], "the server's own budget"


def test_estimating_makes_nothing(server):
    before = server.metric("aquatint_jobs_total")
    assert server.client.post("/api/estimate", json={"prompt": "p", "model": "own"}).json()["roads"][0]["usd"]["low"] > 0
    assert server.metric("aquatint_jobs_total") == before


def test_readiness_tells_how_budgets_stand(server, until):
    (budget,) = until(lambda: server.ready()["budgets"])
    assert (budget["upstream"], budget["used"], budget["open"]) == ("openai", 0.0, True)
    assert json.dumps(budget).count("20") == 1, "the month, and no figure"


@pytest.mark.usefixtures("spent")
def test_the_command_prints_the_same(server):
    used(server)  # all of it is in the books
    rows = [line.split("\t") for line in command(server, "usage").splitlines()]
    assert {"local"} == {row[1] for row in rows}
    assert {"m", "own"} <= {row[2] for row in rows}
    assert command(server, "usage", "--month", "2020-01") == ""
