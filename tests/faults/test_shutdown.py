"""A server that is told to stop finishes what it has begun."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MODELS = """
server: {default_model: slow}
models:
  slow:
    source: "fake:?tick=0.03"
    family: fake
    defaults: {width: 64, height: 64, steps: 20, guidance: 1.0, sampler: euler}
"""


def post(server, **body):
    return server.client.post("/v1/images/generations", json={"prompt": "x", **body})


def in_flight(server):
    return sum(worker["in_flight"] for worker in server.ready()["workers"])


def test_sigterm_finishes_what_is_in_flight(serve, until):
    server = serve(models=MODELS).until_ready()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(post, server, seed=seed, steps=80) for seed in range(4)]
        until(lambda: in_flight(server) == 4, what="four requests in flight")
        server.terminate()
        state = until(lambda: not (state := server.ready())["ready"] and state, 30, "readiness to go")
        assert state["reason"] == "The server is shutting down."
        refused = post(server)
        assert [future.result().status_code for future in futures] == [200] * 4
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_idle_server_leaves_at_once_with_code_0(serve):
    server = serve(models=MODELS).until_ready()
    assert server.stop(5) == 0


def test_stops_while_its_worker_still_starts(serve):
    server = serve(models=MODELS.replace("tick=0.03", "load=30"))
    assert server.stop(15) == 0


def test_drain_is_bounded(serve, until):
    server = serve("--drain-seconds", "0.5", models=MODELS).until_ready()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(post, server, steps=150)
        until(lambda: in_flight(server) == 1, what="a request in flight")
        server.terminate()
        assert server.process.wait(60) == 0
        assert future.exception() is not None or future.result().status_code in (499, 503)


def test_an_interrupt_is_a_request_to_stop_too(serve):
    server = serve(models=MODELS).until_ready()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0


def test_a_killed_server_leaves_no_worker_behind(serve, until):
    server = serve(models=MODELS).until_ready()
    worker = server.worker_pid()
    server.process.kill()
    server.process.wait(60)
    until(lambda: not alive(worker), 60, "the worker to leave")


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
