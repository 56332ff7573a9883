"""A batch that was accepted is done, each line once, whoever is killed; a request sent again after a death is done once."""

import contextlib
import json
import threading
from collections import Counter

import httpx
import pytest

from tests.doubles.webhooks import ENV, FLAGS, Receiver, kill, pids

LINES = 60
MODELS = """
server: {default_model: m}
models: {m: {source: "fake:?tick=0.01&decode=0.005", family: fake, defaults: {width: 64, height: 64, steps: 10, sampler: euler}}}
"""
JSONL = {"content-type": "application/x-ndjson"}


def hand_in(client, receiver):
    head = json.dumps({"webhook": receiver.url, "defaults": {"prompt": "p"}})
    lines = [json.dumps({"custom_id": f"c{index}", "body": {"seed": index}}) for index in range(LINES)]
    answer = client.post("/api/batches", content="\n".join([head, *lines]), headers={**JSONL, "Idempotency-Key": "the-batch"})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def check(client, batch_id, receiver, until):
    """Every line has one result, from one job, and one message tells of it."""

    def over():
        view = client.get(f"/api/batches/{batch_id}").json()
        return view if view["state"] == "finished" else None

    assert until(over, 120, "the end of the batch")["counts"]["succeeded"] == LINES
    told = [json.loads(line) for line in client.get(f"/api/batches/{batch_id}/results").text.splitlines()]
    assert [each["line"] for each in told] == list(range(2, LINES + 2))
    assert [each["custom_id"] for each in told] == [f"c{index}" for index in range(LINES)]
    assert [[image["seed"] for image in each["images"]] for each in told] == [[index] for index in range(LINES)]
    jobs = client.get("/api/jobs", params={"batch": batch_id, "limit": 100}).json()["data"]
    assert Counter(job["id"] for job in jobs) == Counter(each["job"] for each in told)
    assert Counter(job["state"] for job in jobs) == {"succeeded": LINES}
    assert len({image["url"].rpartition("/")[2] for each in told for image in each["images"]}) == LINES
    until(lambda: receiver.told, 60, "the webhook")
    (said,) = receiver.told.values()
    assert (said["type"], said["data"]["id"], said["data"]["counts"]["succeeded"]) == ("batch.finished", batch_id, LINES)
    return jobs


@pytest.mark.timeout(280)
def test_a_batch_outlives_its_servers(launch, until, tmp_path):
    pace = threading.Event()
    with Receiver() as receiver:
        server = launch(tmp_path / "server", *FLAGS, models=MODELS, env=ENV)
        batch_id = hand_in(server.client, receiver)
        for life in range(6):
            pace.wait(0.1 * life)  # each life is cut off at another moment
            kill(server)
            server = launch(tmp_path / "server", *FLAGS, models=MODELS, env=ENV)
            assert hand_in(server.client, receiver) == batch_id, "sent again, it is the same"
            if life == 2:
                server.until_ready()
        check(server.client, batch_id, receiver, until)
        assert len(server.client.get("/api/batches").json()["data"]) == 1
        assert server.stop() == 0


@pytest.mark.timeout(280)
def test_two_servers_on_one_postgresql_feed_one_batch(launch, until, tmp_path, postgres_url):
    flags, folders = (*FLAGS, "--database-url", postgres_url), [tmp_path / name for name in ("one", "two")]
    with Receiver() as receiver:
        servers = [launch(folder, *flags, models=MODELS, env=ENV) for folder in folders]
        batch_id = hand_in(servers[0].client, receiver)
        assert hand_in(servers[1].client, receiver) == batch_id
        for victim in (0, 1, 0):
            kill(servers[victim])
            servers[victim] = launch(folders[victim], *flags, models=MODELS, env=ENV)
        check(servers[1].client, batch_id, receiver, until)


@pytest.mark.timeout(280)
def test_a_job_that_was_sent_to_a_dying_server_is_sent_again_and_made_once(launch, until, tmp_path):
    """The server dies at another moment each time: before the job is written, after it, or after the answer."""
    moments = [0.0, 0.002, 0.005, 0.01, 0.02]
    server = launch(tmp_path / "server", models=MODELS)
    known = {}
    for index, moment in enumerate(moments):
        ask = {"json": {"prompt": "p", "seed": index}, "headers": {"Idempotency-Key": f"job-{index}"}}
        got = []

        def send(client=server.client, ask=ask, got=got):
            with contextlib.suppress(httpx.HTTPError, RuntimeError):
                got.append(client.post("/api/jobs", **ask).json()["id"])

        doomed = pids(server)
        thread = threading.Thread(target=send)
        thread.start()
        threading.Event().wait(moment)
        kill(server, doomed)
        thread.join()
        server = launch(tmp_path / "server", models=MODELS)
        again = [server.client.post("/api/jobs", **ask) for _ in range(2)]
        assert [each.status_code for each in again] == [202, 202]
        known[index] = {*got, *(each.json()["id"] for each in again)}
    assert all(len(ids) == 1 for ids in known.values()), known

    def over():
        jobs = server.client.get("/api/jobs", params={"limit": 100}).json()["data"]
        return jobs if {job["state"] for job in jobs} == {"succeeded"} else None

    jobs = until(over, 60, "the end of every job")
    assert sorted(job["seeds"][0] for job in jobs) == list(range(len(moments)))
    assert {job["id"] for job in jobs} == {job_id for ids in known.values() for job_id in ids}
    assert server.stop() == 0
