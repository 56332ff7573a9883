"""Workers die, hang and run out of memory; requests do not."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.conftest import abandoned

GENERATE = "/v1/images/generations"

MODELS = """
server: {default_model: slow}
models:
  slow:
    source: "fake:?tick=0.03&load=0.3"
    family: fake
    defaults: {width: 64, height: 64, steps: 20, guidance: 1.0, sampler: euler}
  cursed:
    source: "fake:?tick=0.02&crash_seed=13&hang_seed=14"
    family: fake
    preload: true
    defaults: {width: 64, height: 64, steps: 10, guidance: 1.0, sampler: euler}
  tight:
    source: "fake:?tick=0.01&oom_rows=2"
    family: fake
    defaults: {width: 64, height: 64, steps: 4, guidance: 1.0, sampler: euler}
  broken:
    source: "fake:?fail_load=true"
    family: fake
"""


def shares(server, total):
    each = [worker["in_flight"] for worker in server.ready()["workers"]]
    return sum(each) == total and all(each)


def post(server, **body):
    return server.client.post(GENERATE, json={"prompt": "x", **body})


def all_at_once(server, bodies):
    pool = ThreadPoolExecutor(len(bodies))
    return pool, [pool.submit(post, server, **body) for body in bodies]


def in_flight(server):
    return sum(worker["in_flight"] for worker in server.ready()["workers"])


def test_eight_in_flight_survive_a_killed_worker(serve, until):
    server = serve(models=MODELS).until_ready()
    pool, futures = all_at_once(server, [{"seed": seed, "steps": 60} for seed in range(8)])
    with pool:
        until(lambda: in_flight(server) == 8, what="eight requests in flight")
        first = server.worker_pid()
        os.kill(first, signal.SIGKILL)
        seen = until(lambda: not (state := server.ready())["ready"] and state, 30, "readiness to tell of the death")
        assert "signal 9" in seen["reason"] or "loading" in seen["reason"] or "starting" in seen["reason"]
        assert server.client.get("/healthz").status_code == 200
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200] * 8
    again = post(server, seed=3, steps=60, cache="off")
    assert again.json()["data"] == answers[3].json()["data"]
    state = server.until_ready().ready()["workers"][0]
    assert state["pid"] != first
    assert state["restarts"] == 1
    assert server.metric("aquatint_worker_restarts_total") == 1


def test_a_request_that_kills_twice_is_alone_in_failing(serve):
    server = serve(models=MODELS).until_ready()
    bodies = [{"model": "cursed", "seed": seed, "steps": 10} for seed in (1, 2, 13, 4, 5)]
    pool, futures = all_at_once(server, bodies)
    with pool:
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200]
    error = answers[2].json()["error"]
    assert error["code"] == "request_kills_worker"
    assert "twice" in error["message"]
    assert answers[2].headers["x-should-retry"] == "false"
    assert server.until_ready().ready()["workers"][0]["restarts"] == 2


def test_a_hanging_worker_is_killed_and_its_neighbours_are_served(serve):
    server = serve("--worker-hang-seconds", "1", models=MODELS).until_ready()
    pool, futures = all_at_once(server, [{"model": "cursed", "seed": seed} for seed in (14, 1)])
    with pool:
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [500, 200]
    assert "hung" in server.ready()["workers"][0]["reason"]


def test_a_drained_worker_hands_its_work_on(serve, until):
    server = serve(models=MODELS).until_ready()
    pool, futures = all_at_once(server, [{"seed": seed, "steps": 60} for seed in range(3)])
    with pool:
        until(lambda: in_flight(server) == 3, what="three requests in flight")
        os.kill(server.worker_pid(), signal.SIGTERM)
        answers = [future.result() for future in futures]
        late = post(server, seed=9)
    assert [answer.status_code for answer in [*answers, late]] == [200] * 4


def test_out_of_memory_costs_nothing_but_time(serve):
    server = serve(models=MODELS).until_ready()
    answer = post(server, model="tight", n=6)
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 6
    assert server.metric("aquatint_out_of_memory_total") >= 1


def test_a_model_that_does_not_load_says_so(serve):
    server = serve(models=MODELS).until_ready()
    for _ in range(2):
        answer = post(server, model="broken")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "model_load_failed"
    assert post(server, model="slow", steps=1).status_code == 200


def test_two_workers_share_and_stand_in_for_each_other(serve, until):
    server = serve("--device", "fake,fake", models=MODELS).until_ready()
    until(lambda: all("slow" in worker["models"] for worker in server.ready()["workers"]), what="both workers loaded")
    pool, futures = all_at_once(server, [{"seed": seed, "steps": 80} for seed in range(6)])
    with pool:
        until(lambda: shares(server, 6), what="both workers at work")
        os.kill(server.worker_pid(1), signal.SIGKILL)
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200] * 6


def test_a_dropped_connection_cancels_the_work(serve, until):
    server = serve(models=MODELS).until_ready()
    with abandoned(server.url, GENERATE, {"prompt": "x", "steps": 150}):
        until(lambda: in_flight(server) == 1, what="the request in flight")
    until(lambda: in_flight(server) == 0, 30, "the work to be cancelled")
    until(lambda: server.metric('aquatint_jobs_total{state="cancelled"}') == 1, what="the job to be over")


def test_a_full_queue_refuses_before_any_work(serve, until):
    server = serve("--queue-limit", "4", models=MODELS).until_ready()
    pool, futures = all_at_once(server, [{"seed": seed, "steps": 80} for seed in range(4)])
    with pool:
        until(lambda: in_flight(server) == 4, what="four requests in flight")
        refused = post(server)
        answers = [future.result() for future in futures]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert refused.headers["x-should-retry"] == "true"
    assert post(server, steps=1).status_code == 200
    until(lambda: server.metric("aquatint_jobs_total") == 5, what="the ends of those that were let in")


def test_leaving_a_stream_cancels_the_work(serve, until):
    server = serve(models=MODELS).until_ready()
    body = {"prompt": "x", "steps": 150, "stream": True, "partial_images": 3}
    with httpx.stream("POST", server.url + GENERATE, json=body, timeout=30) as response:
        assert "partial_image" in next(response.iter_text())
    until(lambda: in_flight(server) == 0, 30, "the work to be cancelled")
    until(lambda: server.metric('aquatint_jobs_total{state="cancelled"}') == 1, what="the job to be over")


def test_an_error_in_a_stream_is_an_event(serve):
    server = serve(models=MODELS).until_ready()
    body = {"prompt": "x", "model": "cursed", "seed": 13, "stream": True}
    with httpx.stream("POST", server.url + GENERATE, json=body, timeout=30) as response:
        text = response.read().decode()
    assert text.startswith('event: error\ndata: {"type":"error","error":{')
    assert "request_kills_worker" in text
